"""The responses of a served process to invalid HTTP, byte by byte."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import until_serving
from tests.faults.served import Served, project

pytestmark = pytest.mark.integration

_HEAD = b"POST /api/v1/work/bytes HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("protocol")
    here = project(folder, f"sqlite:///{folder / 'data'}", SERVER_SLOW_TIMEOUT_SECONDS="1")
    with here.process():
        asyncio.run(until_serving(here.port))
        yield here


def exchange(here: Served, *parts: bytes) -> bytes:
    """Send bytes, and return everything that the server sends until it closes."""
    said = b""
    with here.connect() as sock:
        sock.settimeout(10)
        for part in parts:
            sock.sendall(part)
        while piece := sock.recv(1 << 16):
            said += piece
    return said


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (_HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (_HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (_HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (_HEAD + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
        (_HEAD + b"Host: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (_HEAD + b"X-Large: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (_HEAD + b"X-Many: x\r\n" * 101 + b"\r\n", 431),
        (_HEAD + b"Content-Length: 3\r\n\r\na", 408),
        (b"GET / HTTP/1.1\r\nHo", 408),
    ],
)
def test_a_refused_request_gets_problem_details_and_is_closed(served: Served, sent: bytes, status: int) -> None:
    said = exchange(served, sent)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in said
    assert b"application/problem+json" in said
    assert b"x-content-type-options: nosniff" in said
    assert b"content-security-policy: default-src 'none'; base-uri 'none'; frame-ancestors 'none'\r\n" in said
    assert said.count(b"HTTP/1.1") == 1


def test_the_response_to_an_earlier_request_is_not_replaced_by_a_refusal(served: Served) -> None:
    said = exchange(served, b"GET /api/v1/work/waited?seconds=5 HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
    assert said == b""


def test_a_request_in_an_unknown_coding_is_refused_without_effect(served: Served) -> None:
    """The parser refuses some of these only after the request has begun, and reads others as plain chunks."""
    codings = [b"identity", b"gzip", b'"chunked"', b"chunked;q=1", b"gzip, chunked", b"a\r\nTransfer-Encoding: chunked"]
    here = b" /api/v1/work%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    add = b"POST" + here % b"?number=%d" + b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n"
    answers = [exchange(served, add % (number, coding)) for number, coding in enumerate(codings)]
    # SQLite writes in order: a write that began before this one is committed before it.
    assert exchange(served, add % (99, b"chunked")).startswith(b"HTTP/1.1 201 ")
    numbers = exchange(served, b"GET" + here % b"/all" + b"\r\n").rpartition(b"\r\n\r\n")[2]
    assert json.loads(numbers) == [99]
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 400 "}


def test_a_trailer_does_not_count_as_a_header(served: Served) -> None:
    trailer = b"X-Request-ID: from-the-trailer\r\n\r\n"
    said = exchange(
        served,
        _HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + trailer,
    )
    assert said.startswith(b"HTTP/1.1 200")
    assert b"from-the-trailer" not in said


def test_requests_sent_ahead_are_answered_in_order(served: Served) -> None:
    waits = b"GET /api/v1/work/waited?seconds=0.%d HTTP/1.1\r\nHost: a\r\n%s\r\n"
    said = exchange(served, waits % (3, b""), waits % (2, b""), waits % (1, b"Connection: close\r\n"))
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"0.3", b"0.2", b"0.1"]


def test_a_refused_upgrade_does_not_change_the_protocol(served: Served) -> None:
    said = exchange(
        served,
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 200")
