"""The measurement of growth: the projects that it writes, and its computations."""

import ast
import asyncio
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from bench.growth import last_path, write_project
from bench.growth.imports import idle_groups, self_times
from bench.growth.starts import Start, measure_starts
from bench.growth.worker import call
from kernel.application import create_app
from kernel.ext.autogenerate.comparison import differences
from kernel.testing import settings_for
from tests.core.project import imported_alone

ITEM = {"title": "Chair", "description": "Red.", "day": "2030-05-01"}


def handlers(project: Path, module: str) -> list[str]:
    tree = ast.parse((project / "modules" / module / "router.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)]


def test_a_project_has_the_requested_number_of_modules_and_routes(tmp_path: Path) -> None:
    project = write_project(tmp_path, modules=3, routes=10)
    names = sorted(folder.name for folder in (project / "modules").iterdir() if folder.is_dir())
    assert names == ["feature_000", "feature_001", "feature_002"]
    assert [len(handlers(project, name)) for name in names] == [10, 10, 10]
    assert sorted(folder.name for folder in (project / "migrations").iterdir()) == names


def test_only_the_requested_number_of_modules_has_a_table(tmp_path: Path) -> None:
    project = write_project(tmp_path, modules=3, routes=4, tables=1)
    assert [(project / "modules" / f"feature_00{number}" / "models.py").exists() for number in range(3)] == [
        True,
        False,
        False,
    ]
    assert handlers(project, "feature_000") == ["list_items", "create_item", "read_item", "read_fact_3"]
    assert handlers(project, "feature_001") == [f"read_fact_{number}" for number in range(4)]


def test_the_last_route_of_a_module_needs_no_database_however_few_there_are(tmp_path: Path) -> None:
    for routes in (1, 2, 7):
        project = write_project(tmp_path / str(routes), modules=1, routes=routes)
        assert handlers(project, "feature_000")[-1] == f"read_fact_{routes - 1}"
        assert last_path(1, routes) == f"/api/v1/feature_000/7/fact-{routes - 1}"


def test_a_project_without_modules_or_routes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_project(tmp_path, modules=0, routes=10)


async def test_a_project_of_three_modules_starts_and_answers(tmp_path: Path) -> None:
    project = write_project(tmp_path, modules=3, routes=10)
    with imported_alone():
        app = create_app(settings_for(project, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"}))
        async with app.router.lifespan_context(app):
            assert (await call(app, last_path(3, 10), {}))[0] == 200
            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                items = "/api/v1/feature_002"
                item = f"{items}/{(await client.post(items, json=ITEM)).json()['id']}"
                assert (await client.patch(item, json={"title": "Table"})).json()["title"] == "Table"
                assert (await client.put(item, json=ITEM)).json()["version"] == 3
                assert (await client.get(items)).json()["total"] == 1
                assert (await client.delete(item)).status_code == 204
                assert (await client.get(item)).status_code == 404


async def test_the_migration_of_a_module_creates_the_tables_of_its_models(tmp_path: Path) -> None:
    project = write_project(tmp_path, modules=1, routes=1)
    with imported_alone():
        app = create_app(settings_for(project, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"}))
        for history in app.kernel.histories():
            await history.upgrade()
            assert await differences(history) == []


def test_the_slowest_packages_in_which_no_code_ran_come_first() -> None:
    trace = """
import time: self [us] | cumulative | imported package
import time:       300 |        300 |   rich.table
import time:        20 |        320 | rich
import time:       100 |        100 |   sqlalchemy.orm.mapper
import time:       900 |       1000 |   sqlalchemy.dialects.oracle
import time:        50 |         50 | asyncio
"""
    idle = idle_groups(self_times(trace), {"sqlalchemy.orm.mapper", "asyncio.tasks"})
    assert idle == [("sqlalchemy.dialects", 900), ("rich", 320)]


def test_a_start_fulfils_its_aims_by_its_median() -> None:
    figures = iter([(9.0, 90.0), (1.0, 90.0), (1.2, 90.0), (1.1, 96.0)])
    start = Start("ours", most_seconds=1.3, most_mib=95, once=lambda: next(figures))
    [found] = measure_starts([start], 3, warm_up=True)
    assert found.holds == "yes"
    assert found.values["seconds"] == 1.1
    [late] = measure_starts([Start("late", 1, 95, lambda: (1.5, 90))], 1)
    assert (late.holds, late.measured) == ("partly", "under 1 s, at most 95 MiB")


def test_calling_in_process_passes_the_query_and_the_headers_on() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"four"})

    assert asyncio.run(call(app, "/a?b=c", {"Accept": "x"})) == (201, 4)
    assert (seen[0]["path"], seen[0]["query_string"]) == ("/a", b"b=c")
    assert (b"accept", b"x") in seen[0]["headers"]


@pytest.mark.slow
async def test_many_modules_are_routed_as_fastapi_alone_would_route_them(tmp_path: Path) -> None:
    """For each route: responses, refused methods, redirects, missing paths, and the OpenAPI document."""
    project = write_project(tmp_path, modules=20, routes=10, tables=2)
    with imported_alone():
        ours = create_app(settings_for(project, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"}))
        theirs = FastAPI()
        for module in ours.kernel.modules:
            assert module.router is not None
            theirs.include_router(module.router, prefix=module.prefix, tags=list(module.tags))
        facts = [
            path.replace("{item_id}", "7")
            for path, operations in theirs.openapi()["paths"].items()
            if "fact" in path and "get" in operations
        ]
        assert len(facts) == 18 * 10 + 2 * 4
        async with ours.router.lifespan_context(ours):
            for path in facts:
                for method, asked in (
                    ("GET", path),
                    ("POST", path),
                    ("GET", f"{path}/"),
                    ("GET", f"{path}?unknown=1"),
                    ("GET", path.replace("/7/", "/seven/")),
                    ("GET", f"{path}x"),
                    ("GET", f"/{path}"),
                    ("GET", path.replace("feature_0", "feature_9")),
                ):
                    assert await routed(ours, method, asked) == await routed(theirs, method, asked), (method, asked)
                status, _, _, body = await routed(ours, "HEAD", path)
                assert (status, body) == (200, "")  # FastAPI alone would refuse it.
        described, expected = ours.openapi()["paths"], theirs.openapi()["paths"]
    assert list(described) == list(expected)
    for path, operations in expected.items():
        assert list(described[path]) == list(operations)
        for method, operation in operations.items():
            found = described[path][method]
            assert {key: found.get(key) for key in operation if key != "responses"} == {
                key: value for key, value in operation.items() if key != "responses"
            }
            assert found["responses"].keys() >= operation["responses"].keys()


async def routed(app: FastAPI, method: str, path: str) -> tuple[int, str, str, str]:
    """Return the result of routing: status, redirect, allowed methods, and the body unless it is an error."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        answer = await client.request(method, path)
    methods = set(answer.headers.get("allow", "").split(", "))
    allowed = ", ".join(sorted(methods - {"HEAD"}))  # The kernel serves HEAD for every GET.
    # FastAPI alone repeats the host that the caller named in a redirect; the kernel redirects without a host.
    place = answer.headers.get("location", "").removeprefix("http://test")
    body = answer.text if answer.status_code == 200 else ""
    return answer.status_code, place, allowed, body
