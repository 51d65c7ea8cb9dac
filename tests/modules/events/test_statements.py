"""The database cost of each request: exact statements as the driver sends them, and connections under load."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only

from kernel.application import Application, create_app
from kernel.settings import Settings

URL = "/api/v1/events"
CONCERT = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}


@pytest.fixture
def variables(variables: dict[str, str]) -> dict[str, str]:
    """Turn the relay off, whose polls would be among the counted statements."""
    return variables | {"MESSAGING_RELAY": "false"}


@pytest.fixture
def sent() -> list[str]:
    """Record the first word of every statement that reaches a driver."""
    return []


@pytest.fixture
async def application(settings: Settings, sent: list[str]) -> AsyncIterator[Application]:
    """Provide a whole application whose connections record their statements."""

    def note(query: Any) -> None:
        text = query if isinstance(query, str) else query.query
        sent.append(text.strip(" ;").split()[0].upper())

    def listen(connection: Any, _record: Any) -> None:
        driver = connection.driver_connection
        if hasattr(driver, "add_query_logger"):
            driver.add_query_logger(note)
        else:
            await_only(driver.set_trace_callback(note))

    app = create_app(settings)
    for database in (app.kernel.pool.database(name) for name in ("events", "images")):
        for pool in {database.writer.sync_engine.pool, database.reader.sync_engine.pool}:
            if not event.contains(pool, "connect", listen):
                event.listen(pool, "connect", listen)
    async with app.router.lifespan_context(app):
        yield app


@pytest.mark.integration
async def test_each_request_sends_the_fewest_possible_statements(client: httpx2.AsyncClient, sent: list[str]) -> None:
    from tests.modules.images.pictures import picture  # noqa: PLC0415  # events can be tested without images

    image = (await client.post("/api/v1/images", files={"file": ("x", picture())})).json()["id"]
    created = await client.post(URL, json=CONCERT)
    one, tag = created.headers["location"], created.headers["etag"]
    await client.get(one)  # All connections are open now.
    await asyncio.sleep(0)
    sent.clear()

    async def costs(method: str, path: str, status: int, *statements: str, **options: Any) -> httpx2.Response:
        answer = await client.request(method, path, **options)
        assert answer.status_code == status, answer.text
        await asyncio.sleep(0)  # asyncpg reports a query one turn of the event loop later.
        assert sent == list(statements), f"{method} {path}"
        sent.clear()
        return answer

    await costs("GET", "/health/live", 200)
    await costs("GET", one, 200, "SELECT")
    await costs("GET", one, 304, "SELECT", headers={"if-none-match": tag})
    await costs("GET", f"{URL}?limit=20", 200, "SELECT")
    await costs("GET", f"{URL}?cursor=", 200, "SELECT")
    await costs("GET", f"{URL}?q=conc&location=Berlin&upcoming=true", 200, "SELECT")
    await costs("POST", URL, 201, "BEGIN", "INSERT", "COMMIT", json=CONCERT)
    await costs("PATCH", one, 200, "BEGIN", "UPDATE", "COMMIT", json={"title": "Gig"}, headers={"if-match": tag})
    await costs("PATCH", one, 200, "SELECT", "BEGIN", "UPDATE", "COMMIT", json={"image_id": image})
    await costs("PATCH", one, 422, "SELECT", "BEGIN", "UPDATE", "ROLLBACK", json={"image_id": image + 1})
    # A failure needs one more statement to find out whether the row was changed or deleted.
    await costs("PATCH", one, 412, "BEGIN", "UPDATE", "SELECT", "ROLLBACK", json={}, headers={"if-match": tag})
    await costs("DELETE", one, 204, "BEGIN", "DELETE", "COMMIT")
    await costs("DELETE", one, 404, "BEGIN", "DELETE", "ROLLBACK")
    # A request that is refused without the database does not even begin a transaction.
    await costs("POST", URL, 422, json={"title": ""})
    await costs("POST", URL, 422, "SELECT", json=CONCERT | {"image_id": image + 1})


@pytest.mark.slow
async def test_64_simultaneous_callers_are_served_by_a_pool_of_5_and_10(client: httpx2.AsyncClient) -> None:
    async def call(number: int) -> int:
        made = await client.post(URL, json=CONCERT | {"title": f"Concert {number}"})
        read = await client.get(made.headers["location"])
        listed = await client.get(URL)
        return {(201, 200, 200): 1}.get((made.status_code, read.status_code, listed.status_code), 0)

    for _ in range(3):
        assert sum(await asyncio.gather(*(call(number) for number in range(64)))) == 64
