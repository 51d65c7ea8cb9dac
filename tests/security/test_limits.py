"""Rate limits: counted by principal or address, over all processes (OWASP API4:2023)."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from limits import parse

from kernel.application import Application
from kernel.ext.rate_limit.memory_counters import MemoryCounters
from kernel.ext.rate_limit.rate_limiter import count_request
from kernel.modules.discovery import DiscoveryError
from kernel.settings import SettingsError
from kernel.testing import Callers
from tests.core.project import running_project

# The windows are long, so that none ends during a test.
ROUTER = """
import os
from functools import partial
from typing import Annotated
from fastapi import APIRouter, File, UploadFile
from kernel import NotFound, public
from kernel.ext.rate_limit import limited

router = APIRouter(dependencies=[public])

@router.get("", dependencies=[limited("3/day")])
async def read() -> int:
    return os.getpid()

@router.get("/nothing", dependencies=[limited("2/day")])
async def nothing() -> None:
    raise NotFound("There is nothing.")

@router.post("", dependencies=[limited("1/day")])
async def upload(file: Annotated[UploadFile, File()]) -> None: ...

@router.get("/both", dependencies=[limited("100/hour; 2/day")])
async def both() -> None: ...

inner = APIRouter(dependencies=[limited("4/day")])

@inner.get("/twice", dependencies=[limited("4/day; 100/month")])
async def twice() -> None: ...

def made(name):
    async def handler() -> str:
        return name
    return handler

for name in ("one", "two"):
    inner.get(f"/made/{name}")(made(name))
inner.get("/partial")(partial(made, "three"))
router.include_router(inner)
"""
HEALTH = """
from fastapi import APIRouter

router = APIRouter(prefix="/health")

@router.get("/live")
async def live() -> None: ...

@router.get("/incidents")
async def incidents() -> None: ...
"""
FILES = {"things/router.py": ROUTER, "health/router.py": HEALTH}
PATH = "/api/v1/things"


def caller(application: Application, address: str) -> httpx2.AsyncClient:
    """Provide a client with an address that no other test uses."""
    transport = httpx2.ASGITransport(application, raise_app_exceptions=False, client=(address, 1))
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


async def statuses(client: httpx2.AsyncClient, path: str, times: int, **headers: str) -> list[int]:
    return [(await client.get(path, headers=headers)).status_code for _ in range(times)]


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    async with running_project(tmp_path, FILES) as running:
        yield running


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_request_over_the_limit_gets_429_with_retry_after(tmp_path: Path, compiled: str) -> None:
    async with running_project(tmp_path, FILES, {"APPLICATION_COMPILED_ENDPOINTS": compiled}) as (_, client):
        first = await client.get(PATH)
        assert await statuses(client, PATH, 2) == [200, 200]
        refused = await client.get(PATH)
    assert first.headers["ratelimit-policy"] == '"route-86400";q=3;w=86400'
    assert first.headers["ratelimit"].startswith('"route-86400";r=2;t=')
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    seconds = int(refused.headers["retry-after"])
    assert 0 < seconds <= 86400
    assert refused.headers["ratelimit"] == f'"route-86400";r=0;t={seconds}'


async def test_a_caller_that_waits_for_retry_after_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router, now = ROUTER.replace("3/day", "2/second"), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    async with running_project(tmp_path, {"things/router.py": router}) as (_, client):
        while (refused := await client.get(PATH)).status_code == 200:
            pass
        seconds = int(refused.headers["retry-after"])
        assert seconds <= 2
        now += seconds
        assert await statuses(client, PATH, 1) == [200]


async def test_each_route_and_each_of_its_limits_counts_separately(
    project: tuple[Application, httpx2.AsyncClient],
) -> None:
    _, client = project
    assert await statuses(client, PATH, 4) == [200, 200, 200, 429]
    assert await statuses(client, f"{PATH}/both", 3) == [200, 200, 429]
    policies = (await client.get(f"{PATH}/both")).headers.get_list("ratelimit-policy")
    assert policies == ['"route-3600";q=100;w=3600', '"route-86400";q=2;w=86400']


async def test_the_same_limit_of_a_router_and_of_its_route_counts_once_and_one_function_for_two_routes_twice(
    project: tuple[Application, httpx2.AsyncClient],
) -> None:
    _, client = project
    assert await statuses(client, f"{PATH}/twice", 5) == [200] * 4 + [429]
    for name in ("made/one", "made/two", "partial"):
        assert await statuses(client, f"{PATH}/{name}", 5) == [200] * 4 + [429], name


async def test_errors_of_the_handler_count_and_carry_the_headers(
    project: tuple[Application, httpx2.AsyncClient],
) -> None:
    _, client = project
    assert '"route-86400";r=1' in (await client.get(f"{PATH}/nothing")).headers["ratelimit"]
    assert await statuses(client, f"{PATH}/nothing", 2) == [404, 429]


async def test_uploads_that_fastapi_itself_handles_are_counted(project: tuple[Application, httpx2.AsyncClient]) -> None:
    _, client = project
    answers = [await client.post(PATH, files={"file": b"x"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]


async def test_callers_are_counted_separately_at_any_address(project: tuple[Application, httpx2.AsyncClient]) -> None:
    application, client = project
    callers = Callers(application)
    alice, bob = callers.headers("alice"), callers.headers("bob")
    assert await statuses(client, PATH, 4, **alice) == [200, 200, 200, 429]
    assert await statuses(client, PATH, 4, **bob) == [200, 200, 200, 429]
    async with caller(application, "192.0.2.9") as elsewhere:
        assert await statuses(elsewhere, PATH, 1, **alice) == [429]
    assert await statuses(client, PATH, 1) == [200]


async def test_requests_with_invalid_tokens_count_by_address(project: tuple[Application, httpx2.AsyncClient]) -> None:
    """Otherwise every guess would count as a new caller, and guessing would have no limit."""
    application, client = project
    Callers(application)
    found = [(await statuses(client, PATH, 1, Authorization=f"Bearer guess-{number}"))[0] for number in range(4)]
    assert found == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2001:db8::1", "2001:db8::ffff:1"),
        (
            "2001:db8:0:1::1",
            "2001:db8:0:ff::1",
        ),  # A customer of most providers has a /56: 256 networks of 2**64 addresses.
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("made-up-1", "made-up-2"),  # By a proxy that passes on any value.
    ],
)
async def test_these_addresses_are_one_caller(
    project: tuple[Application, httpx2.AsyncClient], first: str, second: str
) -> None:
    application, _ = project
    async with caller(application, first) as one, caller(application, second) as same:
        assert await statuses(one, PATH, 3) == [200, 200, 200]
        assert await statuses(same, PATH, 1) == [429]


async def test_addresses_of_two_networks_are_two_callers(project: tuple[Application, httpx2.AsyncClient]) -> None:
    application, _ = project
    for address in ("2001:db8:0:100::1", "2001:db8:0:200::1", "192.0.2.1", "192.0.2.2"):
        async with caller(application, address) as one:
            assert await statuses(one, PATH, 4) == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("bits", "other", "status"),
    [
        (48, "2001:db8:0:ffff::1", 429),
        (48, "2001:db8:1::1", 200),
        (64, "2001:db8:0:1::1", 200),
        (64, "2001:db8::9", 429),
    ],
)
async def test_a_setting_chooses_the_ipv6_prefix_of_a_caller(
    tmp_path: Path, bits: int, other: str, status: int
) -> None:
    variables = {"RATE_LIMIT_IPV6_PREFIX_LENGTH": str(bits)}
    async with (
        running_project(tmp_path, FILES, variables) as (application, _),
        caller(application, "2001:db8::1") as first,
        caller(application, other) as second,
    ):
        assert await statuses(first, PATH, 3) == [200, 200, 200]
        assert await statuses(second, PATH, 1) == [status]


async def test_an_exempt_address_is_not_counted(tmp_path: Path) -> None:
    variables = {"RATE_LIMIT_EXEMPT": "10.0.0.0/8,2001:db8::/32", "RATE_LIMIT_OVERALL": "1/day"}
    async with running_project(tmp_path, FILES, variables) as (application, _):
        for address in ("10.1.2.3", "2001:db8::7"):
            async with caller(application, address) as one:
                assert await statuses(one, PATH, 5) == [200] * 5
                assert "ratelimit" not in (await one.get(PATH)).headers


async def test_the_overall_limit_counts_everything_but_probes(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, {"RATE_LIMIT_OVERALL": "4/day"}) as (_, client):
        answer = await client.get(PATH)
        assert answer.headers.get_list("ratelimit-policy") == [
            '"overall-86400";q=4;w=86400',
            '"route-86400";q=3;w=86400',
        ]
        assert await statuses(client, "/no/such/route", 2) == [404, 404]
        assert await statuses(client, "/openapi.json", 2) == [200, 429]
        assert await statuses(client, "/no/such/route", 1) == [429]
        assert await statuses(client, "/health/live", 5) == [200] * 5
        assert await statuses(client, "/health/incidents", 1) == [429]


async def test_probes_are_not_counted_below_a_root_path_either(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, {"RATE_LIMIT_OVERALL": "1/day"}) as (application, _):
        transport = httpx2.ASGITransport(application, root_path="/svc")
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            assert await statuses(client, "/svc/health/live", 3) == [200] * 3
            assert await statuses(client, "/svc/health/incidents", 2) == [200, 429]


async def test_without_a_limit_responses_have_no_ratelimit_header(
    project: tuple[Application, httpx2.AsyncClient],
) -> None:
    _, client = project
    assert "ratelimit" not in (await client.get("/no/such/route")).headers


@pytest.mark.parametrize("limit", ["600", "600/moment", "many/minute", "0/minute", "-1/minute"])
async def test_an_invalid_limit_stops_the_start_with_an_example(tmp_path: Path, limit: str) -> None:
    with pytest.raises(SettingsError, match=r"RATE_LIMIT_OVERALL: .*write 600/minute"):
        async with running_project(tmp_path, FILES, {"RATE_LIMIT_OVERALL": limit}):
            pass
    with pytest.raises(DiscoveryError, match=r"things/router\.py.*write 600/minute"):
        async with running_project(tmp_path, {"things/router.py": ROUTER.replace("3/day", limit)}):
            pass


async def test_an_invalid_exemption_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RATE_LIMIT_EXEMPT"):
        async with running_project(tmp_path, FILES, {"RATE_LIMIT_EXEMPT": "localhost"}):
            pass


async def test_counts_of_an_expired_window_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naive: the library's own store examines all callers at every request, and keeps them for two windows."""
    counts = MemoryCounters()
    for number in range(1000):
        await counts.acquire_sliding_window_entry(f"caller {number}", 10, 60)
    assert len(counts.storage) == len(counts.expirations) == 1000
    later = time.time() + 121
    monkeypatch.setattr(time, "time", lambda: later)
    await counts.acquire_sliding_window_entry("another", 10, 60)
    assert list(counts.storage) == list(counts.expirations)
    assert len(counts.storage) == 1


async def test_a_request_that_all_processes_together_refuse_is_not_counted_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 6000.0)
    counts, limit = MemoryCounters(), parse("2/minute")
    for _ in range(5):
        assert not (await count_request(counts, limit, "caller")).is_over
        await counts.take_back(limit.key_for("caller"), limit.get_expiry())
    assert [(await count_request(counts, limit, "caller")).is_over for _ in range(3)] == [False, False, True]


async def test_a_refused_caller_gets_the_earliest_time_for_its_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last window weighs less and less: after a tenth of this one, ten requests in it leave room for one."""
    now, counts, limit = 6000.0, MemoryCounters(), parse("10/minute")
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(10):
        assert not (await count_request(counts, limit, "caller")).is_over
    assert (await count_request(counts, limit, "caller")).seconds == 61
    now += 62
    while not (refused := await count_request(counts, limit, "caller")).is_over:
        pass
    now += refused.seconds - 2
    assert (await count_request(counts, limit, "caller")).is_over
    now += 2
    assert not (await count_request(counts, limit, "caller")).is_over


@pytest.mark.integration
def test_without_a_limit_neither_the_library_nor_redis_is_loaded() -> None:
    code = "import sys, kernel.application; print({'limits', 'redis'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
