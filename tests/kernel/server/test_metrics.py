"""/metrics: counted where requests pass, told to whoever may ask, of all workers together."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from kernel.app import Application, create_app
from kernel.server.metrics import add_metrics
from kernel.testing import settings_for
from kernel.testing.booting import talking_to
from tests.faults.harness import KERNEL, free_port
from tests.kernel.messaging.shop import write_shop
from tests.kernel.project import imported_alone, write_project
from tests.process import Process

_FILES = {
    "tea/router.py": """
from fastapi import APIRouter
from kernel import NotFound, public

router = APIRouter(dependencies=[public])

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
    """The application as `kernel serve` assembles it, in this process."""
    with imported_alone():
        settings = settings_for(
            write_project(root, files),
            {"DATABASE_URL": f"sqlite:///{root / 'data'}", "AUTH_ENABLED": "false"} | variables,
        )
        app = create_app(settings)
        add_metrics(app)
        async with app.router.lifespan_context(app), talking_to(app) as client:
            yield app, client


def _series(text: str, name: str) -> Series:
    """The values of one series by its labels, without the worker's; those of several workers are added up."""
    found: Series = {}
    for sample in (one for family in text_string_to_metric_families(text) for one in family.samples):
        if sample.name == name:
            labels = tuple((key, value) for key, value in sorted(sample.labels.items()) if key != "worker")
            found[labels] = found.get(labels, 0) + sample.value
    return found


def _of_tea(text: str) -> dict[tuple[str, str, str], float]:
    """How many requests of the module, by method, route and status."""
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


async def test_requests_are_counted_by_template_and_paths_that_nobody_has_make_one_row(tmp_path: Path) -> None:
    async with _served(tmp_path) as (_, client):
        for path in ("1", "2", "13", "a", "b/c", "b/d", "b/" + "e" * 500):
            await client.get(f"/api/v1/tea/{path}")
        for method in ("BREW", "WHEN"):
            await client.request(method, "/api/v1/tea/1")
        text = (await client.get("/metrics")).text
    assert _of_tea(text) == {
        ("GET", "/api/v1/tea/{number}", "200"): 2,
        ("GET", "/api/v1/tea/{number}", "404"): 1,
        ("GET", "/api/v1/tea/{number}", "422"): 1,
        ("GET", "", "404"): 3,
        ("OTHER", "/api/v1/tea/{number}", "405"): 2,
    }


async def test_outside_local_only_who_has_the_token_sees_anything(tmp_path: Path) -> None:
    async with _served(tmp_path, ENVIRONMENT="dev") as (_, client):
        assert (await client.get("/metrics")).status_code == 404
    async with _served(tmp_path, ENVIRONMENT="dev", TELEMETRY_METRICS_TOKEN="sesame") as (_, client):
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer open"})).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer sesame"})).status_code == 200


async def test_pools_messages_and_the_process_are_told(tmp_path: Path, empty_url: str) -> None:
    async with _served(tmp_path, write_shop(tmp_path), DATABASE_URL=empty_url) as (_, client):
        text = (await client.get("/metrics")).text
    assert sum(_series(text, "database_pool_limit").values()) > 0
    assert (("module", "shop"),) in _series(text, "messages_oldest_seconds")
    assert _series(text, "process_resident_memory_bytes")[()] > 1e6
    assert _series(text, "http_server_requests_in_flight") == {(): 1}
    assert len(_series(text, "application_info")) == 1


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
    # A request is counted when its answer is out: the last may be a moment late.
    _until(lambda: _of_tea(_get(f"{url}/metrics")[1]) == {("GET", "/api/v1/tea/{number}", "200"): 200}, log)
    assert _of_tea(_get(f"{url}/metrics")[1]) == {("GET", "/api/v1/tea/{number}", "200"): 200}
    server.stop()


def test_a_relay_answers_probes_and_metrics_on_a_port_of_its_own(tmp_path: Path, empty_url: str) -> None:
    write_shop(tmp_path)
    port, log = free_port(), tmp_path / "log"
    variables = {"ENVIRONMENT": "local", "DATABASE_URL": empty_url, "TELEMETRY_RELAY_PORT": str(port)}
    variables["SERVER_HOST"] = "127.0.0.1"
    relay = Process(tmp_path, log, variables, "relay")
    url = f"http://127.0.0.1:{port}"
    _until(lambda: _get(f"{url}/health/ready")[0] == 200, log)
    assert _get(f"{url}/health/live") == (200, '{"status":"alive"}')
    assert (("module", "shop"),) in _series(_get(f"{url}/metrics")[1], "messages_oldest_seconds")
    assert _get(f"{url}/api/v1/shop")[0] == 404
    relay.stop()


def test_a_relay_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    write_shop(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [KERNEL, "relay"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": "/usr/bin:/bin", "TELEMETRY_RELAY_PORT": port, "SERVER_HOST": "127.0.0.1"},
        )  # fmt: skip
    assert ended.returncode == 1
    assert "choose another TELEMETRY_RELAY_PORT" in ended.stderr


async def test_nothing_is_counted_where_it_is_switched_off(tmp_path: Path) -> None:
    async with _served(tmp_path, TELEMETRY_METRICS="false") as (app, client):
        assert (await client.get("/metrics")).status_code == 404
        assert app.kernel.meter is None
