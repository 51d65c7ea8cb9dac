"""/metrics: it counts where requests pass, serves allowed callers, and combines all workers."""

import asyncio
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text as sql
from sqlalchemy.engine import URL

from kernel.application import Application, create_app
from kernel.database import Database
from kernel.ext.pool.install import Quotas
from kernel.ext.telemetry.database_connections import usage
from kernel.ext.telemetry.meter import Meter
from kernel.gauges import Gauge
from kernel.testing import settings_for
from kernel.testing.booting import talking_to
from tests.core.project import imported_alone, write_project
from tests.faults.harness import KERNEL, free_port, until
from tests.messaging.shop import write_shop
from tests.process import Process

_FILES = {
    "tea/router.py": """
from fastapi import APIRouter
from kernel import NotFound, public

router = APIRouter(dependencies=[public])

@router.get("")
async def every() -> None: ...

@router.get("/{number}")
async def make(number: int) -> int:
    if number == 13:
        raise NotFound("no")
    return number
""",
}
_DURATION = "http_server_request_duration_seconds_count"
Series = dict[tuple[tuple[str, str], ...], float]


@asynccontextmanager
async def _served(
    root: Path, files: Mapping[str, str] = _FILES, **variables: str
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Run the application as `kernel serve` assembles it, in this process."""
    with imported_alone():
        settings = settings_for(
            write_project(root, files),
            {"DATABASE_URL": f"sqlite:///{root / 'data'}", "AUTH_ENABLED": "false"} | variables,
        )
        app = create_app(settings)
        async with app.router.lifespan_context(app), talking_to(app) as client:
            yield app, client


def _series(text: str, name: str) -> Series:
    """Return the values of one series by its labels, without the worker's; values of several workers are added."""
    found: Series = {}
    families = list(text_string_to_metric_families(text))
    rows = [(one.name, *sorted(one.labels.items())) for family in families for one in family.samples]
    assert len(rows) == len(set(rows)), "Prometheus refuses a scrape that contains a series twice"
    for sample in (one for family in families for one in family.samples):
        if sample.name == name:
            labels = tuple((key, value) for key, value in sorted(sample.labels.items()) if key != "worker")
            found[labels] = found.get(labels, 0) + sample.value
    return found


async def _scraped(client: httpx2.AsyncClient, *names: str) -> dict[str, dict[str, float]]:
    """Return the values of these series in one scrape, by their labels' values."""
    text = (await client.get("/metrics")).text
    return {
        name: {" ".join(value for _, value in labels): number for labels, number in _series(text, name).items()}
        for name in names
    }


async def _hold(database: Database, until_then: asyncio.Event) -> None:
    """Use a connection."""
    async with database.transaction() as session:
        await session.execute(sql("SELECT 1"))
        await until_then.wait()


def _of_tea(text: str) -> dict[tuple[str, str, str], float]:
    """Return the numbers of requests to the module, by method, route and status."""
    counted = [(dict(labels), number) for labels, number in _series(text, _DURATION).items()]
    return {(one["method"], one["route"], one["status"]): number for one, number in counted if one["module"] == "tea"}


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own server
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _until(look: Callable[[], bool], log: Path) -> None:
    ends_at = time.monotonic() + 60
    while True:
        try:
            if look():
                return
        except OSError:
            pass
        assert time.monotonic() < ends_at, log.read_text()
        time.sleep(0.05)


async def test_requests_are_counted_by_template_and_unknown_paths_share_a_row(tmp_path: Path) -> None:
    async with _served(tmp_path) as (_, client):
        for path in ("1", "2", "13", "a", "b/c", "b/d", "b/" + "e" * 500):
            await client.get(f"/api/v1/tea/{path}")
        for method in ("BREW", "WHEN"):
            await client.request(method, "/api/v1/tea/1")
        await client.get("/api/v1/tea")
        text = (await client.get("/metrics")).text
    assert _of_tea(text) == {
        ("GET", "/api/v1/tea/{number}", "200"): 2,
        ("GET", "/api/v1/tea/{number}", "404"): 1,
        ("GET", "/api/v1/tea/{number}", "422"): 1,
        ("GET", "/api/v1/tea", "200"): 1,
        ("GET", "", "404"): 3,
        ("OTHER", "/api/v1/tea/{number}", "405"): 2,
    }


async def test_outside_local_metrics_require_the_token(tmp_path: Path) -> None:
    async with _served(tmp_path, ENVIRONMENT="dev") as (_, client):
        assert (await client.get("/metrics")).status_code == 404
    async with _served(tmp_path, ENVIRONMENT="dev", TELEMETRY_METRICS_TOKEN="sesame") as (_, client):
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer open"})).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer sesame"})).status_code == 200


async def test_pools_messages_and_the_process_have_metrics(tmp_path: Path, empty_url: str) -> None:
    async with _served(tmp_path, write_shop(tmp_path), DATABASE_URL=empty_url) as (_, client):
        text = (await client.get("/metrics")).text
    assert sum(_series(text, "database_pool_limit").values()) > 0
    assert (("module", "shop"),) in _series(text, "messages_oldest_seconds")
    assert _series(text, "process_resident_memory_bytes")[()] > 1e6
    assert _series(text, "http_server_requests_in_flight") == {(): 1}
    assert len(_series(text, "application_info")) == 1


@pytest.mark.slow
async def test_connections_in_use_idle_and_above_the_size_and_waiting_callers_are_counted(
    tmp_path: Path, new_database: Callable[[str], URL]
) -> None:
    """One connection in the pool and three above it, of which each of the two modules may hold two."""
    variables = {"DATABASE_POOL_SIZE": "1", "DATABASE_MAX_OVERFLOW": "3", "DATABASE_POOL_SHARE_PERCENT": "60"}
    variables |= {"DATABASE_POOL_SHARE_TIMEOUT_SECONDS": "10", "MESSAGING_RELAY": "false"}
    variables["DATABASE_URL"] = new_database("gauges").render_as_string(hide_password=False)
    pools = [f"database_pool_{what}" for what in ("connections", "limit", "waiting", "overflow")]
    modules = [f"database_module_{what}" for what in ("in_use", "waiting", "overflow")]
    async with _served(tmp_path, write_shop(tmp_path), **variables) as (app, client):
        pool, ended = app.kernel.pool, asyncio.Event()
        quotas = next(source for source in app.kernel.builder.gauges if isinstance(source, Quotas))
        shop, mail, shared = (pool.database(name) for name in ("shop", "mail", None))

        async def counted(in_use: int, waiting: int) -> None:
            async def look() -> bool:
                numbers = {gauge.name: dict(gauge.rows) for gauge in quotas.gauges()}
                [all_] = usage(pool).values()
                return all_.in_use == in_use and all_.waiting + numbers["database_module_waiting"]["shop",] == waiting

            await until(look)

        async with asyncio.TaskGroup() as holders:
            for database in (shop, shop, mail, shared):
                holders.create_task(_hold(database, ended))
            await counted(4, 0)
            for database in (shop, shared):
                holders.create_task(_hold(database, ended))
            await counted(4, 2)
            busy = await _scraped(client, *pools, *modules)
            ended.set()
        quiet = await _scraped(client, *pools, *modules)
    [name] = busy["database_pool_limit"]
    assert busy == {
        "database_pool_connections": {f"{name} in_use": 4, f"{name} idle": 0},
        "database_pool_limit": {name: 4},
        "database_pool_waiting": {name: 1},
        "database_pool_overflow": {name: 3},
        "database_module_in_use": {"shop": 2, "mail": 1},
        "database_module_waiting": {"shop": 1, "mail": 0},
        "database_module_overflow": {"shop": 1, "mail": 0},
    }
    assert quiet == {
        "database_pool_connections": {f"{name} in_use": 0, f"{name} idle": 4},
        "database_pool_limit": {name: 4},
        "database_pool_waiting": {name: 0},
        "database_pool_overflow": {name: 0},
        "database_module_in_use": {"shop": 0, "mail": 0},
        "database_module_waiting": {"shop": 0, "mail": 0},
        "database_module_overflow": {"shop": 0, "mail": 0},
    }


@pytest.mark.integration
async def test_connections_to_upstreams_and_open_circuits_are_counted(tmp_path: Path) -> None:
    is_asked, ended = asyncio.Event(), asyncio.Event()
    closed: asyncio.Queue[None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /slow "):
            is_asked.set()
            await ended.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.put_nowait(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    up = "http://{}:{}".format(*server.sockets[0].getsockname())
    down = f"http://127.0.0.1:{free_port()}"
    async with _served(tmp_path, HTTP_CLIENT_MAX_ATTEMPTS="1") as (app, client):
        http = app.kernel.http.get_client()
        slow = asyncio.create_task(http.get(f"{up}/slow"))
        await is_asked.wait()
        await http.get(f"{up}/quick")
        for _ in range(5):
            with pytest.raises(httpx2.ConnectError):
                await http.get(down)
        told = await _scraped(client, "http_client_connections", "http_client_circuit_open")
        ended.set()
        await slow
    server.close()
    for _ in range(2):
        await closed.get()
    assert told == {
        "http_client_connections": {"in_use": 1, "idle": 1},
        "http_client_circuit_open": {up: 0, down: 1},
    }


class _Queue:
    """Gauges of a system that answers once and fails from then on."""

    def __init__(self) -> None:
        self.is_down = False
        self.length = 0

    async def refresh(self) -> None:
        if self.is_down:
            raise ConnectionRefusedError
        self.length += 1

    def gauges(self) -> list[Gauge]:
        return (
            [] if self.is_down else [Gauge("queue_length", "Jobs that wait.", ("queue",), [(("mail",), self.length)])]
        )


async def test_an_extension_contributes_gauges_and_its_failure_costs_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.ext.telemetry.metrics._REFRESH_SECONDS", 0)
    async with _served(tmp_path) as (app, client):
        queue = _Queue()
        app.kernel.builder.gauges.append(queue)
        assert (await _scraped(client, "queue_length"))["queue_length"] == {"mail": 1}
        queue.is_down = True
        text = (await client.get("/metrics")).text
    assert not _series(text, "queue_length")
    assert len(_series(text, "application_info")) == 1


async def test_a_delay_of_the_event_loop_is_reported_once(tmp_path: Path) -> None:
    async with _served(tmp_path) as (_, client):
        await asyncio.sleep(0.01)
        time.sleep(0.7)  # noqa: ASYNC251  # it is looked at every half second: so 0.2 s late at least
        await asyncio.sleep(0.01)
        told = [(await _scraped(client, "event_loop_lag_seconds"))["event_loop_lag_seconds"][""] for _ in range(2)]
    assert 0.2 <= told[0] < 10
    assert told[1] < told[0]


async def test_the_age_of_a_waiting_message_is_reported(tmp_path: Path, empty_url: str) -> None:
    files = write_shop(tmp_path)
    async with _served(tmp_path, files, DATABASE_URL=empty_url, MESSAGING_RELAY="false") as (_, client):
        for number in range(2):
            assert (await client.post("/api/v1/shop", json={"number": number})).status_code == 201
        await asyncio.sleep(0.1)  # The smallest age that the metric may have.
        told = await _scraped(client, "messages", "messages_oldest_seconds")
    assert told["messages"] == {"shop pending": 2}
    assert 0.1 <= told["messages_oldest_seconds"].pop("shop") < 10
    assert told["messages_oldest_seconds"] == {"mail": 0}


@pytest.mark.slow
def test_one_scrape_counts_every_request_of_four_workers(tmp_path: Path) -> None:
    write_project(tmp_path, _FILES)
    port, log = free_port(), tmp_path / "log"
    variables = {"ENVIRONMENT": "local", "SERVER_RELOAD": "false", "SERVER_DRAIN_SECONDS": "0"}
    server = Process(tmp_path, log, variables, "serve", "--host=127.0.0.1", f"--port={port}", "--workers=4")
    url = f"http://127.0.0.1:{port}"

    def workers() -> int:
        text = _get(f"{url}/metrics")[1]
        return len({one.labels["worker"] for family in text_string_to_metric_families(text) for one in family.samples})

    _until(lambda: workers() == 4, log)
    for number in range(200):
        assert _get(f"{url}/api/v1/tea/{number + 100}")[0] == 200
    # A request is counted after its response was sent, so the last one may be late.
    _until(lambda: _of_tea(_get(f"{url}/metrics")[1]) == {("GET", "/api/v1/tea/{number}", "200"): 200}, log)
    assert _of_tea(_get(f"{url}/metrics")[1]) == {("GET", "/api/v1/tea/{number}", "200"): 200}
    server.stop()


@pytest.mark.integration
def test_a_relay_answers_probes_and_metrics_on_a_port_of_its_own(tmp_path: Path, empty_url: str) -> None:
    write_shop(tmp_path)
    port, log = free_port(), tmp_path / "log"
    variables = {"ENVIRONMENT": "local", "DATABASE_URL": empty_url, "MESSAGING_RELAY_PORT": str(port)}
    variables["SERVER_HOST"] = "127.0.0.1"
    relay = Process(tmp_path, log, variables, "relay")
    url = f"http://127.0.0.1:{port}"
    _until(lambda: _get(f"{url}/health/ready")[0] == 200, log)
    assert _get(f"{url}/health/live") == (200, '{"status":"alive"}')
    assert (("module", "shop"),) in _series(_get(f"{url}/metrics")[1], "messages_oldest_seconds")
    assert _get(f"{url}/api/v1/shop")[0] == 404
    relay.stop()


@pytest.mark.integration
def test_a_relay_with_a_taken_port_reports_it(tmp_path: Path) -> None:
    write_shop(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [KERNEL, "relay"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": "/usr/bin:/bin", "MESSAGING_RELAY_PORT": port, "SERVER_HOST": "127.0.0.1"},
        )  # fmt: skip
    assert ended.returncode == 1
    assert "choose another MESSAGING_RELAY_PORT" in ended.stderr


async def test_nothing_is_counted_if_metrics_are_off(tmp_path: Path) -> None:
    async with _served(tmp_path, TELEMETRY_METRICS="false") as (app, client):
        assert (await client.get("/metrics")).status_code == 404
        assert app.kernel.find(Meter) is None
