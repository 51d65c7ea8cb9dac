"""Claim: a pooled HTTP client is 5 to 10 times as fast as a new client for every call."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median

import httpx2
import uvloop

from bench.claims.processes import ROOT
from bench.claims.reporting import Finding, interleaved, say, verdict
from bench.claims.upstream import KINDS, Kind, Upstream, upstream
from kernel.http_client import HttpxRestClientPool
from kernel.testing import settings_for

_CLAIMED = 5
_CONCURRENT = 100
_POOLED = "pooled"
_NEW = "new clients"
_SHARED_TLS = "new clients that share one SSLContext"
_PLAIN = "one plain httpx2.AsyncClient"

Call = Callable[[], Awaitable[httpx2.Response]]


def measure_clients(folder: Path, *, quick: bool) -> list[Finding]:
    """Return a row for each protocol."""
    with upstream(folder / "upstream") as server:
        return [_measure(server, kind, quick=quick) for kind in KINDS]


def _measure(server: Upstream, kind: Kind, *, quick: bool) -> Finding:
    turns = 2 if quick else 5
    # Few calls where each creates an SSLContext, but at least one for each of 100 callers.
    calls = {_POOLED: 1_000, _NEW: 100, _SHARED_TLS: 200, _PLAIN: 1_000}
    say(f"HTTP client: {turns} turns over {kind}")
    url, http2 = server.urls[kind], kind == "HTTP/2 over TLS"
    shared = _context(server.ca_file)
    variables = {"HTTP_CLIENT_CA_FILE": str(server.ca_file), "HTTP_CLIENT_HTTP2": str(http2)}
    plain = httpx2.AsyncClient(verify=shared, http2=http2, trust_env=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pool = HttpxRestClientPool(settings_for(ROOT, variables).http_client)
        runner.run(pool.__aenter__())
        ways: dict[str, Call] = {
            _POOLED: lambda: pool.get_client().get(url),
            # The usual code: httpx2.AsyncClient() creates an SSLContext, even if the URL needs none.
            _NEW: lambda: _with_new_client(url, _context(server.ca_file), http2=http2),
            _SHARED_TLS: lambda: _with_new_client(url, shared, http2=http2),
            _PLAIN: lambda: plain.get(url),
        }
        for name in (_POOLED, _PLAIN):
            runner.run(_seconds_of(ways[name], _CONCURRENT))
        before = server.connections()[kind]
        runner.run(_seconds_of(ways[_POOLED], calls[_POOLED]))
        opened = server.connections()[kind] - before
        figures = interleaved(turns, {name: partial(_turn, runner, way, calls[name]) for name, way in ways.items()})
        runner.run(pool.__aexit__())
        runner.run(plain.aclose())
    milliseconds = {name: median(figure) * 1000 for name, figure in figures.items()}
    faster = {name: milliseconds[name] / milliseconds[_POOLED] for name in (_NEW, _SHARED_TLS)}
    return Finding(
        "a pooled HTTP client is 5 to 10 times as fast",
        f"calls over {kind}, {_CONCURRENT} at a time: the kernel's client pool against a new httpx2.AsyncClient a call",
        f"{faster[_NEW]:.1f} times as fast ({faster[_SHARED_TLS]:.1f} times, where the new clients share one "
        "SSLContext): "
        + ", ".join(f"{name} {1000 / value:,.0f} calls/s" for name, value in milliseconds.items())
        + f"; the pool opened {opened} more connections for {calls[_POOLED]:,} calls",
        verdict(faster[_NEW] >= _CLAIMED, faster[_SHARED_TLS] >= _CLAIMED),
        {"faster": faster, "milliseconds_per_call": milliseconds, "opened_while_warm": opened},
    )


def _context(ca_file: Path) -> ssl.SSLContext:
    """Return the context that httpx2 creates for a new client, with the upstream's authority."""
    context = httpx2.create_ssl_context()
    context.load_verify_locations(ca_file)
    return context


async def _with_new_client(url: str, context: ssl.SSLContext, *, http2: bool) -> httpx2.Response:
    async with httpx2.AsyncClient(verify=context, http2=http2, trust_env=False) as client:
        return await client.get(url)


def _turn(runner: asyncio.Runner, call: Call, calls: int) -> float:
    return runner.run(_seconds_of(call, calls)) / calls


async def _seconds_of(call: Call, calls: int) -> float:
    """Return the seconds of this number of calls by 100 callers, each with one call at a time.

    Raises for a status other than 200.
    """
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            (await call()).raise_for_status()

    started_at = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CONCURRENT)))
    return time.perf_counter() - started_at
