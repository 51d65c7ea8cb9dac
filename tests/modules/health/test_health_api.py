"""The probes, and the stored incidents."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from kernel.application import Application, create_app
from kernel.testing import settings_for


async def test_a_healthy_application_is_alive_started_and_ready(
    client: httpx2.AsyncClient, application: Application
) -> None:
    for probe, status in (("live", "alive"), ("startup", "started"), ("ready", "ready")):
        answer = await client.get(f"/health/{probe}")
        assert (answer.status_code, answer.json()) == (200, {"status": status})
    details = (await client.get("/health")).json()
    assert details["status"] == "healthy"
    assert {one["component"] for one in details["components"]} == application.kernel.health_checks().keys()
    assert details["modules"] == [module.name for module in application.kernel.modules]


async def fail() -> None:
    raise ConnectionError("it is unplugged")


async def hang() -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("check", [fail, hang])
async def test_one_failing_component_makes_the_process_unready_but_not_dead(
    client: httpx2.AsyncClient, application: Application, monkeypatch: pytest.MonkeyPatch, check: object
) -> None:
    checks = dict(application.kernel.health_checks()) | {f"probe{number}": check for number in range(5)}
    monkeypatch.setattr(application.kernel, "health_checks", lambda: checks)
    started_at = time.monotonic()
    answer = await client.get("/health/ready")
    assert time.monotonic() - started_at < 3, "five checks that hang must share one deadline"
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [f"probe{number}" for number in range(5)]
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health")).json()["status"] == "unhealthy"


async def test_a_recovery_writes_an_incident(
    client: httpx2.AsyncClient, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = dict(application.kernel.health_checks())
    monkeypatch.setattr(application.kernel, "health_checks", lambda: well | {"probe": fail})
    await client.get("/health/ready")
    await client.get("/health/ready")
    assert (await client.get("/health/incidents")).json()["items"] == []

    async def mended() -> None:
        return

    monkeypatch.setattr(application.kernel, "health_checks", lambda: well | {"probe": mended})
    assert (await client.get("/health/ready")).status_code == 200
    await application.kernel.contexts["health"].state.written()
    [incident] = (await client.get("/health/incidents", params={"component": "probe"})).json()["items"]
    assert incident["seen"] == "ConnectionError: it is unplugged"
    assert incident["started_at"] < incident["ended_at"]
    assert (await client.get("/health/incidents", params={"component": "other"})).json()["total"] == 0


async def test_an_incident_waits_until_it_can_be_written(
    client: httpx2.AsyncClient, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = application.kernel.contexts["health"].state
    database = monitor._database
    well = dict(application.kernel.health_checks())
    monkeypatch.setattr(application.kernel, "health_checks", lambda: well | {"probe": fail})
    await client.get("/health/ready")
    monkeypatch.setattr(application.kernel, "health_checks", lambda: well)
    monitor._failing["events.storage"] = monitor._failing.pop("probe")
    monkeypatch.setattr(application.kernel, "health_checks", lambda: {"events.storage": lambda: asyncio.sleep(0)})

    class Broken:
        def transaction(self) -> None:
            raise ConnectionError

    monitor._database = Broken()
    assert (await client.get("/health/ready")).status_code == 200
    await monitor.written()
    assert (await client.get("/health/incidents")).json()["total"] == 0
    monitor._database = database
    await client.get("/health/ready")
    await monitor.written()
    assert (await client.get("/health/incidents")).json()["total"] == 1


async def test_many_probes_within_the_cache_time_ask_the_components_once(root: Path, tmp_path: Path) -> None:
    own = {"DATABASE_URL": f"sqlite:///{tmp_path}", "IMAGES_STORAGE_URL": str(tmp_path), "HEALTH_CACHE_SECONDS": "60"}
    app = create_app(settings_for(root, own))
    asked = 0

    async def count() -> None:
        nonlocal asked
        asked += 1

    app.kernel.health_checks = lambda: {"probe": count}  # type: ignore[method-assign]  # stands for all components
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        await asyncio.gather(*(client.get("/health/ready") for _ in range(20)))
    assert asked == 1


@pytest.mark.alone
async def test_no_probe_waits_until_an_incident_is_written(
    client: httpx2.AsyncClient, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = application.kernel.contexts["health"].state

    class Silent:
        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[None]:
            await hang()
            yield

    monkeypatch.setattr(monitor, "_database", Silent())
    monkeypatch.setattr(application.kernel, "health_checks", lambda: {"probe": fail})
    await client.get("/health/ready")
    monkeypatch.setattr(application.kernel, "health_checks", lambda: {"probe": lambda: asyncio.sleep(0)})
    began_at = time.monotonic()
    assert (await client.get("/health/ready")).status_code == 200
    assert time.monotonic() - began_at < 0.5


@pytest.mark.alone
async def test_by_default_a_check_that_hangs_is_reported_within_a_second_and_a_half(root: Path, tmp_path: Path) -> None:
    own = {"DATABASE_URL": f"sqlite:///{tmp_path}", "IMAGES_STORAGE_URL": str(tmp_path)}
    app = create_app(settings_for(root, own))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.get("/health/ready")).status_code == 200
        app.kernel.health_checks = lambda: {"probe": hang}  # type: ignore[method-assign]  # stands for all components
        began_at = time.monotonic()
        while (await client.get("/health/ready")).status_code == 200:  # noqa: ASYNC110  # what changes is the answer
            await asyncio.sleep(0.01)
        assert time.monotonic() - began_at < 1.5


@pytest.mark.integration
async def test_in_production_health_reveals_no_internals(root: Path, tmp_path: Path) -> None:
    variables = {
        "ENVIRONMENT": "prod",
        "AUTH_ISSUER": "https://id.example",
        "AUTH_AUDIENCE": "api",
        "DATABASE_URL": "postgresql://u:pw-1@127.0.0.1:1/d",
        "IMAGES_STORAGE_URL": str(tmp_path),
    }
    app = create_app(settings_for(root, variables))
    monitor_of = app.kernel.contexts["health"]
    from modules.health.service import HealthMonitor  # noqa: PLC0415  # the application is not started: no database

    monitor_of.state = HealthMonitor(monitor_of.database, monitor_of.settings)  # type: ignore[arg-type]  # its own
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/startup")).status_code == 503
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert {error["message"] for error in ready.json()["errors"]} == {"unhealthy"}
        details = (await client.get("/health")).json()
        assert details["status"] == "unhealthy"
        assert details["modules"] is None
        assert {one["problem"] for one in details["components"]} == {None}
