"""`make audit` finds a vulnerable dependency, and reports unavailable data as such."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

VULNERABLE: dict[str, Any] = {
    "vulns": [
        {
            "id": "PYSEC-2030-1",
            "affected": [
                {
                    "package": {"name": "parcel", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
                    "versions": ["1.0"],
                }
            ],
        }
    ]
}


@contextmanager
def osv(answer: dict[str, Any]) -> Iterator[str]:
    """Run a vulnerability service that gives this answer to every request; yield its address."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Do not log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def audit(root: Path, folder: Path, osv_url: str) -> subprocess.CompletedProcess[str]:
    """Run `make audit` for one dependency, with access to `osv_url` only."""
    lock = folder / "lock.txt"
    lock.write_text(f"parcel==1.0 --hash=sha256:{'0' * 64}\n")
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "PIP_AUDIT_OSV_URL": osv_url}
    command = [sys.executable, str(root / "bin" / "audit"), str(lock)]
    return subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("answer", "code", "said"), [({}, 0, "none of 1"), (VULNERABLE, 1, "PYSEC-2030-1")])
def test_a_vulnerable_dependency_fails_the_audit(
    root: Path, tmp_path: Path, answer: dict[str, Any], code: int, said: str
) -> None:
    with osv(answer) as url:
        done = audit(root, tmp_path, url)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout


def test_unavailable_data_has_an_exit_code_of_its_own(root: Path, tmp_path: Path) -> None:
    done = audit(root, tmp_path, "http://127.0.0.1:9/v1/query")
    assert done.returncode == 3
    assert "NOT AUDITED" in done.stdout
