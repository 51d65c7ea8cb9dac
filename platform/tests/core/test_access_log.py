"""The access log: the plain way writes the line that structlog would."""

import json
import re
import sys
from typing import Any

import pytest
import structlog

from kernel.logging import configure_logging
from kernel.settings import LogSettings
from kernel.web import access_log

pytestmark = pytest.mark.usefixtures("own_logging")

PATHS = ["/", "/ä\n\x00\"'\\", "/\u2028", "/\ud800", "/" + "x" * 5000]


def _scope(path: str) -> dict[str, Any]:
    return {"request_id": "an-id", "method": "GET", "path": path, "client": ("127.0.0.1", 1)}


def lines(capsys: pytest.CaptureFixture[str], path: str, status: int = 200) -> list[str]:
    with structlog.contextvars.bound_contextvars(request_id="an-id"):
        access_log.log_request(_scope(path), status, 0.001, None)
    return capsys.readouterr().out.splitlines(keepends=True)


@pytest.mark.parametrize("path", PATHS)
def test_the_line_is_the_one_that_structlog_would_write(capsys: pytest.CaptureFixture[str], path: str) -> None:
    settings = LogSettings(format="json", level="INFO")
    configure_logging(settings)
    [theirs] = lines(capsys, path)
    access_log.configure_access_log(settings)
    [ours] = lines(capsys, path)
    assert ours.isascii()
    expected, found = json.loads(theirs), json.loads(ours)
    assert list(found) == list(expected)
    moment = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    assert moment.fullmatch(found.pop("timestamp"))
    assert moment.fullmatch(expected.pop("timestamp"))
    assert found.pop("duration_ms") >= 0
    assert expected.pop("duration_ms") >= 0
    assert found == expected


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_nothing_is_written_above_its_level(capsys: pytest.CaptureFixture[str], level: Any) -> None:
    settings = LogSettings(format="json", level=level)
    configure_logging(settings)
    access_log.configure_access_log(settings)
    assert lines(capsys, "/") == []


def test_a_log_that_nobody_reads_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _text: str) -> None:
            raise BrokenPipeError

    access_log.configure_access_log(LogSettings(format="json", level="INFO"))
    monkeypatch.setattr(sys, "stdout", Gone())
    access_log.log_request(_scope("/"), 200, 0.001, None)
