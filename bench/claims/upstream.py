"""A small and fast HTTPS upstream in a process of its own: HTTP/1.1, HTTP/1.1 over TLS, HTTP/2 over TLS.

httpx2 is the expensive side of a call. A server as slow as the client would hide half of the difference.
"""

import asyncio
import json
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import h2.config
import h2.connection
import h2.events
import trustme
import uvloop

from bench.claims.processes import ROOT, stop

Kind = Literal["HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2 over TLS"]
KINDS: tuple[Kind, ...] = ("HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2 over TLS")

_BODY = b'{"answer": 42}'
_HTTP1_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
_HTTP2_HEADERS = [(":status", "200"), ("content-type", "application/json"), ("content-length", str(len(_BODY)))]


class Upstream:
    """A running upstream, seen from this process."""

    def __init__(self, urls: Mapping[Kind, str], ca_file: Path, commands: IO[bytes], answers: IO[bytes]) -> None:
        self.urls = urls
        self.ca_file = ca_file
        self._commands = commands
        self._answers = answers

    def connections(self) -> dict[str, int]:
        """Return how many connections of each kind the upstream has accepted so far."""
        self._commands.write(b"count\n")
        self._commands.flush()
        counted: dict[str, int] = json.loads(self._answers.readline())
        return counted


@contextmanager
def upstream(folder: Path) -> Iterator[Upstream]:
    """Run a server with a certificate of its own for 127.0.0.1; `folder` stores the files."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    command = [sys.executable, "-m", __name__, str(folder / "server.pem")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None  # noqa: S101  # for the type checker
        assert process.stdout is not None  # noqa: S101
        ports = json.loads(process.stdout.readline())
        urls = {kind: f"{'https' if 'TLS' in kind else 'http'}://127.0.0.1:{ports[kind]}/" for kind in KINDS}
        yield Upstream(urls, folder / "ca.pem", process.stdin, process.stdout)
    finally:
        stop(process)


class _Http1(asyncio.Protocol):
    """Answers each request; requests have no bodies."""

    def __init__(self, accepted: Counter[str], kind: Kind) -> None:
        accepted[kind] += 1
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        self._transport.write(_HTTP1_ANSWER * len(requests))


class _Http2(asyncio.Protocol):
    """The same for HTTP/2; requests without bodies end with their headers."""

    def __init__(self, accepted: Counter[str], kind: Kind) -> None:
        accepted[kind] += 1
        configuration = h2.config.H2Configuration(client_side=False, validate_inbound_headers=False)
        self._connection = h2.connection.H2Connection(configuration)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connection.initiate_connection()
        self._transport.write(self._connection.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.StreamEnded) and event.stream_id is not None:
                self._connection.send_headers(event.stream_id, _HTTP2_HEADERS)
                self._connection.send_data(event.stream_id, _BODY, end_stream=True)
        self._transport.write(self._connection.data_to_send())


async def _serve(certificate: str) -> None:
    loop = asyncio.get_running_loop()
    accepted: Counter[str] = Counter()
    ports = {}
    for kind in KINDS:
        protocol = _Http2 if kind == "HTTP/2 over TLS" else _Http1
        tls = None
        if "TLS" in kind:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            tls.set_alpn_protocols(["h2" if protocol is _Http2 else "http/1.1"])
        server = await loop.create_server(partial(protocol, accepted, kind), "127.0.0.1", 0, ssl=tls, backlog=1_000)
        ports[kind] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(accepted), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
