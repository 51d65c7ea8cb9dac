"""`kernel` commands in the process of the test. A process of its own takes a second to start."""

import contextlib
import gc
import importlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import structlog

from kernel.cli import main as cli
from tests.core.project import imported_alone

_KEPT_VARIABLES = {"PATH", "HOME", "LANG", "TMPDIR"}


def invoke(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a `kernel` command in a project's folder, with these variables, and return what the process would."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES}
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        imported_alone(),
        logging_kept(),
        _commands_kept(),
        contextlib.chdir(root),
        mock.patch.dict(os.environ, kept | variables, clear=True),
        mock.patch.object(sys, "argv", ["kernel", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        importlib.invalidate_caches()
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            gc.enable()  # Some commands disable it, because their process ends soon.
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Restore the configuration of logging after the block."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@contextlib.contextmanager
def _commands_kept() -> Iterator[None]:
    """Forget the commands of extensions, which each run adds to those of the kernel."""
    commands, groups = list(cli.app.registered_commands), list(cli.app.registered_groups)
    try:
        yield
    finally:
        cli.app.registered_commands[:], cli.app.registered_groups[:] = commands, groups
