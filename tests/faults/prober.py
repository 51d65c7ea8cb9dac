"""Sends requests from a separate process, which the load does not delay: `-m tests.faults.prober PORT FILE PATH...`."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_PAUSE_SECONDS = 0.05


def _probe(port: int, path: str, file: TextIO) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while True:
        at = time.monotonic()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        line = {"path": path, "at": at, "took": time.monotonic() - at, "status": answer.status}
        line["is_proper"] = answer.status < 500 or answer.getheader("retry-after") is not None
        file.write(json.dumps(line) + "\n")
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def probing(port: int, file: Path, *paths: str) -> Iterator[None]:
    """Request these paths repeatedly; afterwards the file contains one line of JSON for each response."""
    command = [sys.executable, "-m", "tests.faults.prober", str(port), str(file), *paths]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    with Path(sys.argv[2]).open("w", buffering=1) as lines:
        for name in sys.argv[3:]:
            threading.Thread(target=_probe, args=(int(sys.argv[1]), name, lines), daemon=True).start()
        signal.sigwait({signal.SIGTERM})
