"""Asks a server's probes from a process of its own, whose clock no load delays: `-m tests.faults.prober PORT FILE`."""

import http.client
import json
import signal
import sys
import threading
import time
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


if __name__ == "__main__":
    with Path(sys.argv[2]).open("w", buffering=1) as lines:
        for name in ("/health/live", "/health/ready"):
            threading.Thread(target=_probe, args=(int(sys.argv[1]), name, lines), daemon=True).start()
        signal.sigwait({signal.SIGTERM})
