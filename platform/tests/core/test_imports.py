"""Every extension can be the first import of a process: no import is circular."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kernel

_EXTENSIONS = Path(kernel.__file__).parent / "ext"
# Each import runs in a process of its own. The libraries are imported once before, because they take most of the time.
_SCRIPT = """
import importlib, os, sys
import fastapi, sqlalchemy.ext.asyncio, structlog, pydantic_settings, typer
assert "kernel" not in sys.modules
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(name, error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.integration
def test_each_extension_can_be_imported_first() -> None:
    # Each import imports the extension's package before.
    names = [f"kernel.ext.{path.parent.name}.extension" for path in sorted(_EXTENSIONS.glob("*/extension.py"))]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
