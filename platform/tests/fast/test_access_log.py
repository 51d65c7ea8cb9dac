"""The access log: the direct code writes the same line as structlog."""

import gc
import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from kernel.ext.fast.access_log import access_log_for, write_json
from kernel.ext.fast.extension import Fast
from kernel.ext.pool.extension import Pool
from kernel.logging import configure_logging
from kernel.project import Project
from kernel.serving import application
from kernel.settings import LogSettings
from kernel.testing import settings_for
from kernel.web.context import RequestContext
from kernel.web.middleware import AccessLog, log_request
from tests.core.project import write_project

pytestmark = pytest.mark.usefixtures("own_logging")

PATHS = ["/", "/ä\n\x00\"'\\", "/\u2028", "/\ud800", "/" + "x" * 5000]


def _scope(path: str) -> dict[str, Any]:
    scope = {"method": "GET", "path": path, "client": ("127.0.0.1", 1)}
    RequestContext(kernel=cast("Any", None), request_id="an-id").attach(scope)
    return scope


def lines(capsys: pytest.CaptureFixture[str], write: AccessLog, path: str) -> list[str]:
    with structlog.contextvars.bound_contextvars(request_id="an-id"):
        write(_scope(path), 200, 0.001, None)
    return capsys.readouterr().out.splitlines(keepends=True)


@pytest.mark.parametrize("path", PATHS)
def test_the_line_equals_that_of_structlog(capsys: pytest.CaptureFixture[str], path: str) -> None:
    settings = LogSettings(format="json", level="INFO")
    configure_logging(settings)
    write = access_log_for(settings)
    assert write is not None
    [theirs] = lines(capsys, log_request, path)
    [ours] = lines(capsys, write, path)
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
def test_no_line_is_written_below_the_log_level(capsys: pytest.CaptureFixture[str], level: Any) -> None:
    settings = LogSettings(format="json", level=level)
    configure_logging(settings)
    write = access_log_for(settings)
    assert write is not None
    assert lines(capsys, write, "/") == []
    assert lines(capsys, log_request, "/") == []


def test_an_unread_log_blocks_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    write_json(_scope("/"), 200, 0.001, None)


def test_structlog_formats_lines_for_a_console() -> None:
    assert access_log_for(LogSettings(format="console", level="INFO")) is None


@pytest.mark.parametrize(("log_format", "expected"), [("json", write_json), ("console", log_request)])
def test_a_process_that_serves_writes_it(tmp_path: Path, log_format: str, expected: AccessLog) -> None:
    settings = settings_for(write_project(tmp_path, {}), {"LOG_FORMAT": log_format})
    try:
        app = application(Project(settings, (), (Pool, Fast)))
    finally:
        gc.enable()
    assert app.access_log is expected
