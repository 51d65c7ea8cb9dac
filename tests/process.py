"""A `kernel` command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


class Process:
    """A `kernel` command. `stop` ends it."""

    def __init__(self, root: Path, log: Path, variables: dict[str, str], *words: str) -> None:
        command = [str(Path(sys.executable).with_name("kernel")), *words]
        self._log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command, cwd=root, env=os.environ | variables, stdout=output, stderr=output
            )

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0, self._log.read_text()
