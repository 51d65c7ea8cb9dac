"""Hosts and addresses in requests, and the proxies that are trusted for them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.serving import Served, request, served

pytestmark = pytest.mark.integration

PEER = "127.0.0.1"
ALLOWED = "api.example.org,*.example.com"


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that trusts no proxy, with host names of its own."""
    folder = tmp_path_factory.mktemp("hosts")
    names = {"SERVER_ALLOWED_HOSTS": ALLOWED, "SERVER_FORWARDED_ALLOW_IPS": "10.0.0.1"}
    with served(root, folder, f"sqlite:///{folder / 'data'}", **names) as started:
        yield started


@pytest.fixture(scope="module")
def proxied(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that trusts this process as its proxy."""
    folder = tmp_path_factory.mktemp("proxied")
    with served(root, folder, f"sqlite:///{folder / 'data'}", SERVER_FORWARDED_ALLOW_IPS=PEER) as started:
        yield started


def client_of(server: Served, headers: dict[str, str]) -> str:
    """Return the client address in the access log of a request with these headers."""
    answer = server.send(request("GET", "/health/live", headers))
    [identity] = answer.headers("x-request-id")
    lines = (json.loads(line) for line in server.log.read_text().splitlines() if identity in line)
    return str(next(line["client"] for line in lines if line["event"] == "request"))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.org", 200),
        ("API.Example.ORG", 200),
        ("api.example.org:8443", 200),
        ("a.example.com", 200),
        ("a.b.example.com", 200),
        ("localhost", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]", 200),
        ("[::1]:8000", 200),
        ("example.com", 400),
        ("evil.org", 400),
        ("api.example.org.evil.org", 400),
        ("evilexample.com", 400),
        ("api.example.org@evil.org", 400),
        ("evil.org/api.example.org", 400),
        ("evil.org#.example.com", 400),
        ("evil.org/.example.com", 400),
        ("evil.org:80:80", 400),
        ("api.example.org:evil", 400),
        ("[::1", 400),
        ("[::2]", 400),
        ("0.0.0.0", 400),  # noqa: S104  # a name that a caller gives
        ("169.254.169.254", 400),
        ("2130706433", 400),
        ("", 400),
        ("api.example.org.", 400),
    ],
)
def test_only_allowed_hosts_are_served(server: Served, host: str, status: int) -> None:
    answer = server.send(request("GET", "/health/live", host=host))
    assert answer.statuses == (status,)


def test_one_request_has_one_host(server: Served) -> None:
    for headers in (b"", b"Host: localhost\r\nHost: evil.org\r\n"):
        answer = server.send(b"GET /health/live HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n")
        assert answer.statuses == (400,)


@pytest.mark.parametrize("host", ["evil.org", "localhost"])
def test_an_extra_slash_redirects_to_no_other_host(proxied: Served, host: str) -> None:
    for path in ("/api/v1/events/?limit=1", "/health/live/"):
        answer = proxied.send(request("GET", path, {"X-Forwarded-Host": "evil.org"}, host=host))
        assert answer.statuses == (307,)
        assert answer.headers("location") == [path.replace("/?", "?").rstrip("/")]
    for path in ("//evil.org/", "//evil.org/health/live/", "/\\evil.org/"):
        assert proxied.send(request("GET", path, host=host)).statuses == (404,)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP"])
def test_only_a_trusted_proxy_sets_the_client_address(server: Served, name: str) -> None:
    value = "for=198.51.100.7" if name == "Forwarded" else "198.51.100.7"
    assert client_of(server, {name: value}) == PEER


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"X-Forwarded-For": "198.51.100.7"}, "198.51.100.7"),
        # The caller may write any text before the part that the proxy adds.
        ({"X-Forwarded-For": "6.6.6.6, 198.51.100.7"}, "198.51.100.7"),
        ({"X-Forwarded-For": "2001:db8::7"}, "2001:db8::7"),
        ({"Forwarded": "for=198.51.100.7"}, PEER),
        ({"X-Real-IP": "198.51.100.7"}, PEER),
        ({"X-Forwarded-Proto": "https"}, PEER),
    ],
)
def test_only_the_part_that_a_trusted_proxy_appends_counts(
    proxied: Served, headers: dict[str, str], client: str
) -> None:
    assert client_of(proxied, headers) == client
