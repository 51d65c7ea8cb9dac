"""The command `kernel test`: the boundary checks, and the tests of the changed modules."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from kernel.ext.boundaries.git import GitError
from kernel.ext.boundaries.scope import ScopeError, select

_NOTHING_COLLECTED = 5  # the exit code of pytest
_CANNOT_SAY = 2


class PytestCommand(TyperCommand):
    """A command with an optional value of `--changed`, which passes the arguments after `--` to pytest (`ctx.args`)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse both, which Typer does not support."""
        end = args.index("--") if "--" in args else len(args)
        ours = list(args[:end])
        for place, argument in enumerate(ours):
            if argument == "--changed" and (ours[place + 1 : place + 2] or ["-"])[0].startswith("-"):
                ours[place] = "--changed="
        super().parse_args(ctx, ours)
        ctx.args = args[end + 1 :]
        return args[end + 1 :]


def run(
    root: Path,
    modules: Sequence[str],
    *,
    changed: str | None,
    whole: bool,
    only_list: bool,
    pytest_arguments: Sequence[str],
    check: Callable[[], int],
) -> int:
    """Print the selection with its reasons, run the boundary checks and the tests, and return pytest's exit code, or 2.

    `changed` is a revision, or "" for the default one, which is also used without `changed` and `modules`. `check` runs
    the boundary checks and returns their exit code.
    """
    try:
        selection = select(root, modules, changed or None, by_change=changed is not None or not modules)
    except (ScopeError, GitError) as error:
        if whole and isinstance(error, GitError) and not changed:  # an archive or a shallow clone: run everything
            typer.echo(f"The failures that a selection would have skipped are unknown. {error}")
            return _pytest(root, [], pytest_arguments) or check()
        typer.secho(str(error), fg="red", err=True)
        if changed and (root / "modules" / changed).is_dir():
            typer.secho(f"{changed} is a module. Write: kernel test {changed} --changed", err=True)
        return _CANNOT_SAY
    for line in selection.lines():
        typer.echo(line)
    if only_list:
        return 0
    broken = check()
    chosen = list(selection.paths)
    if selection.everything is not None:
        chosen = []
    elif whole:
        chosen = ["-p", "kernel.ext.boundaries.selection_plugin", *(f"--selected={path}" for path in selection.paths)]
    elif not chosen:
        typer.secho(
            "There are no tests for this selection: neither tests/boundaries nor tests of the modules.",
            fg="red",
            err=True,
        )
        return _NOTHING_COLLECTED
    return _pytest(root, chosen, pytest_arguments) or broken


def _pytest(root: Path, chosen: Sequence[str], arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", *chosen]
    sys.stdout.flush()  # so that it comes before the output of pytest in a pipe
    return subprocess.run([*command, *arguments], cwd=root, check=False).returncode  # noqa: S603  # our own Python
