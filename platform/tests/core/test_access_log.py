"""The access log: the plain way writes the line that structlog would."""

import json
import re
import sys
from typing import Any, cast

import pytest
import structlog

from kernel.logging import configure_logging
from kernel.settings import LogSettings
from kernel.web import access_log
from kernel.web.context import RequestContext

pytestmark = pytest.mark.usefixtures("own_logging")

PATHS = ["/", "/ä\n\x00\"'\\", "/\u2028", "/\ud800", "/" + "x" * 5000]


def _scope(path: str) -> dict[str, Any]:
    scope = {"method": "GET", "path": path, "client": ("127.0.0.1", 1)}
    RequestContext(kernel=cast("Any", None), request_id="an-id").attach(scope)
    return scope


def lines(capsys: pytest.CaptureFixture[str], write: access_log.AccessLog, path: str) -> list[str]:
    with structlog.contextvars.bound_contextvars(request_id="an-id"):
        write(_scope(path), 200, 0.001, None)
    return capsys.readouterr().out.splitlines(keepends=True)


@pytest.mark.parametrize("path", PATHS)
def test_the_line_is_the_one_that_structlog_would_write(capsys: pytest.CaptureFixture[str], path: str) -> None:
    settings = LogSettings(format="json", level="INFO")
    configure_logging(settings)
    [theirs] = lines(capsys, access_log.write_through_structlog, path)
    [ours] = lines(capsys, access_log.access_log_for(settings), path)
    assert access_log.access_log_for(settings) is not access_log.write_through_structlog
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
    assert lines(capsys, access_log.access_log_for(settings), "/") == []
    assert lines(capsys, access_log.write_through_structlog, "/") == []


def test_a_log_that_nobody_reads_stops_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    access_log.write_json(_scope("/"), 200, 0.001, None)
