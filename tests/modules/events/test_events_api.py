"""Events over HTTP, on SQLite and on PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL

from kernel.application import Application
from kernel.database import AsyncDBPool, Database
from kernel.ext.paging import PageRequest
from kernel.ext.search import has_words
from kernel.settings import DatabaseConfig
from modules.events.repository import EventRepository
from modules.events.schemas import EventOut, EventQuery

URL_ = "/api/v1/events"
CONCERT = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}


async def create(client: httpx2.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post(URL_, json=CONCERT | changes)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def titles(client: httpx2.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get(URL_, params=query)
    assert answer.status_code == 200, answer.text
    return [event["title"] for event in answer.json()["items"]]


async def test_a_created_event_can_be_read_at_its_location(client: httpx2.AsyncClient) -> None:
    answer = await client.post(URL_, json=CONCERT | {"description": "Loud"})
    assert answer.status_code == 201
    body = answer.json()
    assert answer.headers["location"] == f"{URL_}/{body['id']}"
    assert body | CONCERT == body
    assert (body["description"], body["image_id"], body["version"]) == ("Loud", None, 1)
    assert datetime.now(UTC) - datetime.fromisoformat(body["created_at"]) < timedelta(minutes=1)
    read = await client.get(answer.headers["location"])
    assert read.json() == body
    assert read.headers["etag"] == answer.headers["etag"] == '"1"'


async def test_a_replacement_sets_omitted_fields_to_their_defaults(client: httpx2.AsyncClient) -> None:
    event = await create(client, description="Loud")
    answer = await client.put(f"{URL_}/{event['id']}", json=CONCERT | {"title": "Play"})
    assert answer.status_code == 200
    assert (answer.json()["title"], answer.json()["description"], answer.json()["version"]) == ("Play", "", 2)
    assert answer.json()["created_at"] == event["created_at"]
    assert answer.json()["updated_at"] > event["updated_at"]


async def test_a_patch_changes_only_the_given_fields_of_an_event(client: httpx2.AsyncClient) -> None:
    event = await create(client, description="Loud")
    answer = await client.patch(f"{URL_}/{event['id']}", json={"location": "Paris"})
    assert answer.json() == event | {
        "location": "Paris",
        "version": 2,
        "updated_at": answer.json()["updated_at"],
    }


async def test_a_patch_cannot_make_a_required_field_null(client: httpx2.AsyncClient) -> None:
    event = await create(client)
    for field in ("title", "description", "date", "time", "location"):
        answer = await client.patch(f"{URL_}/{event['id']}", json={field: None})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == f"body.{field}"


async def test_a_deleted_event_is_not_found(client: httpx2.AsyncClient) -> None:
    event = await create(client)
    assert (await client.delete(f"{URL_}/{event['id']}")).status_code == 204
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"{URL_}/{event['id']}")).status_code == 404
    assert (await client.patch(f"{URL_}/{event['id']}", json={"title": "x"})).status_code == 404
    assert (await client.put(f"{URL_}/{event['id']}", json=CONCERT)).status_code == 404


@pytest.mark.parametrize(
    ("if_match", "status"),
    [('"1"', 200), ('"2"', 412), ("*", 200), ('"7", "1"', 200), ('W/"1"', 412), ("1", 412), ('"abc"', 412), ("", 412)],
)
async def test_a_change_requires_the_version_in_if_match(
    client: httpx2.AsyncClient, if_match: str, status: int
) -> None:
    event = await create(client)
    headers = {"if-match": if_match}
    answer = await client.patch(f"{URL_}/{event['id']}", json={"title": "New"}, headers=headers)
    assert answer.status_code == status
    replaced = await client.put(f"{URL_}/{event['id']}", json=CONCERT, headers={"if-match": '"99"'})
    assert replaced.status_code == 412
    assert (await client.delete(f"{URL_}/{event['id']}", headers={"if-match": '"99"'})).status_code == 412
    assert (await client.get(f"{URL_}/{event['id']}")).json()["version"] == (2 if status == 200 else 1)


async def test_of_many_simultaneous_changes_of_one_version_one_succeeds(client: httpx2.AsyncClient) -> None:
    event = await create(client)
    change = [
        client.patch(f"{URL_}/{event['id']}", json={"title": str(number)}, headers={"if-match": '"1"'})
        for number in range(10)
    ]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*change))
    assert statuses == [200] + [412] * 9


async def test_a_request_with_the_current_version_gets_304(client: httpx2.AsyncClient) -> None:
    event = await create(client)
    for known, status in (('"1"', 304), ('W/"1"', 304), ("*", 304), ('"0"', 200), ('"0", "1"', 304)):
        answer = await client.get(f"{URL_}/{event['id']}", headers={"if-none-match": known})
        assert answer.status_code == status
        assert answer.headers["etag"] == '"1"'
        assert (answer.content == b"") == (status == 304)


async def test_lists_page_by_offset_with_a_total_and_by_cursor_without(client: httpx2.AsyncClient) -> None:
    for day in range(1, 6):
        await create(client, title=str(day), date=f"2030-05-0{day}")
    page = (await client.get(URL_, params={"limit": 2, "offset": 2})).json()
    assert ([event["title"] for event in page["items"]], page["total"]) == (["3", "4"], 5)
    walked: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await client.get(URL_, params={"limit": 2, "cursor": cursor, "sort": "-date"})).json()
        assert page["total"] is None
        walked += [event["title"] for event in page["items"]]
        cursor = page["next_cursor"]
    assert walked == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("date", ["b", "c", "a"]),
        ("-date", ["a", "c", "b"]),
        ("title", ["a", "b", "c"]),
        ("-title", ["c", "b", "a"]),
        ("created_at", ["c", "a", "b"]),
        ("-created_at", ["b", "a", "c"]),
    ],
)
async def test_lists_are_sorted_by_declared_keys(client: httpx2.AsyncClient, sort: str, expected: list[str]) -> None:
    for title, day, hour in (("c", 2, "09:00"), ("a", 2, "10:00"), ("b", 1, "23:00")):
        await create(client, title=title, date=f"2030-05-0{day}", time=hour)
    assert await titles(client, sort=sort) == expected


async def test_a_search_finds_words_in_title_description_and_location(client: httpx2.AsyncClient) -> None:
    await create(client, title="Jazz night", location="Berlin")
    await create(client, title="Opera", description="An evening of jazz arias", location="Paris")
    await create(client, title="Market", location="Jazzstadt")
    assert await titles(client, q="jazz", sort="title") == ["Jazz night", "Market", "Opera"]
    assert await titles(client, q="JAZZ paris") == ["Opera"]
    assert await titles(client, q="nig") == ["Jazz night"]
    assert await titles(client, q="absent") == []
    for harmless in ("'", "%", "_", "&|!():*", "\\", "a' OR '1'='1", "  "):
        assert (await client.get(URL_, params={"q": harmless})).status_code == 200


@pytest.mark.parametrize(
    ("title", "queries"),
    [
        ("AC/DC live", ["AC/DC", "ac/dc", "live AC/DC", "ac"]),
        ("Learn Node.js", ["Node.js", "node.js!", "node"]),
        ("A run of 10.5 km", ["10.5 km", "10.5", "(km)", "run, km"]),
        ("Open 24/7", ["24/7", "open 24/7"]),
        ("An e-mail course", ["e-mail", "E-MAIL", "course"]),
        ("हिन्दी संगीत", ["हिन्दी", "संगीत", "हिन्दी संगीत"]),
        ("தமிழ் இசை", ["தமிழ்", "இசை"]),
        ("Über den Wolken", ["über", "ÜBER", "Über"]),
        ("Концерт в Москве", ["концерт", "КОНЦЕРТ", "москве"]),
        ("Αθήνα τη νύχτα", ["αθήνα", "ΑΘΉΝΑ"]),
        ("Caf\u00e9 concert", ["cafe\u0301", "caf\u00e9", "CAFE\u0301"]),
        ("Cafe\u0301 concert", ["cafe\u0301", "caf\u00e9"]),
        ("C++ and R&D", ["C++", "r&d"]),
    ],
)
async def test_a_search_finds_words_with_punctuation_and_accents(
    client: httpx2.AsyncClient, title: str, queries: list[str]
) -> None:
    await create(client, title=title)
    await create(client, title="Another thing")
    for query in queries:
        assert await titles(client, q=query) == [title], query


async def test_a_search_with_many_words_has_the_statement_of_a_search_with_one(application: Application) -> None:
    dialect = application.kernel.pool.database("events").writer.dialect
    texts = {str(has_words("title", query).compile(dialect=dialect)) for query in ("a", "a b c d", "24/7 'x' \\")}
    assert len(texts) == 1


async def test_lists_are_filtered_by_dates_place_and_upcoming(client: httpx2.AsyncClient) -> None:
    today = datetime.now(UTC).date()
    for title, day in (("past", today - timedelta(days=2)), ("today", today), ("next", today + timedelta(days=2))):
        await create(client, title=title, date=str(day), location="Rome" if title == "next" else "Oslo")
    assert await titles(client, upcoming=True) == ["today", "next"]
    assert await titles(client, date_to=str(today)) == ["past", "today"]
    assert await titles(client, date_from=str(today), date_to=str(today)) == ["today"]
    assert await titles(client, location="Oslo") == ["past", "today"]
    assert await titles(client, location="Oslo", upcoming=True) == ["today"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "query.limit"),
        ({"limit": 101}, "query.limit"),
        ({"offset": -1}, "query.offset"),
        ({"offset": 10**30}, "query.offset"),
        ({"sort": "shoe"}, "query.sort"),
        ({"cursor": "zzz"}, "query.cursor"),
        ({"cursor": "a", "offset": 1}, "query"),
        ({"date_from": "2030-02-30"}, "query.date_from"),
        ({"date_from": "2030-02-02", "date_to": "2030-02-01"}, "query"),
        ({"q": "\x00"}, "query.q"),
    ],
)
async def test_an_invalid_query_is_refused(client: httpx2.AsyncClient, query: dict[str, Any], field: str) -> None:
    answer = await client.get(URL_, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": ""}, "body.title"),
        ({"title": "   "}, "body.title"),
        ({"title": "x" * 201}, "body.title"),
        ({"title": "a\x00b"}, "body.title"),
        ({"title": 5}, "body.title"),
        ({"description": "x" * 10_001}, "body.description"),
        ({"date": "tomorrow"}, "body.date"),
        ({"date": "10000-01-01"}, "body.date"),
        ({"time": "25:00"}, "body.time"),
        ({"time": "20:00Z"}, "body.time"),
        ({"image_id": 0}, "body.image_id"),
        ({"image_id": 2**63}, "body.image_id"),
        ({"image_id": 1.5}, "body.image_id"),
        ({"image_id": 12345}, "body.image_id"),
        ({"s3ntinel": "red"}, "body"),
    ],
)
async def test_an_invalid_event_is_refused_and_not_stored(
    client: httpx2.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await client.post(URL_, json=CONCERT | change)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert "s3ntinel" not in answer.text, "the name of an unknown field is input of the caller too"
    assert (await client.get(URL_)).json()["total"] == 0


@pytest.mark.parametrize("event_id", ["0", "-1", str(2**63), "abc", "1.5"])
async def test_an_id_out_of_range_is_refused(client: httpx2.AsyncClient, event_id: str) -> None:
    assert (await client.get(f"{URL_}/{event_id}")).status_code == 422


async def test_text_in_any_script_is_returned_unchanged(client: httpx2.AsyncClient) -> None:
    title = "Größe 東京 🎷 e\u0301"
    event = await create(client, title=title, date="0001-01-01", time="23:59:59.999999")
    read = (await client.get(f"{URL_}/{event['id']}")).json()
    assert (read["title"], read["date"], read["time"]) == (title, "0001-01-01", "23:59:59.999999")


# The indexes of the filters.

FILTERS = {
    "date range": ({"date_from": "2020-03-01", "date_to": "2020-03-02"}, "ix_events_date_time_id"),
    "upcoming": ({"upcoming": True}, "ix_events_date_time_id"),
    "location": ({"location": "City 7"}, "ix_events_location_date_time_id"),
    "search": ({"q": "rare77"}, "ix_events_search"),
    "by date": ({}, "ix_events_date_time_id"),
    "by date, descending": ({"sort": "-date"}, "ix_events_date_time_id"),
    "by title": ({"sort": "title"}, "ix_events_title_id"),
    "by creation": ({"sort": "-created_at"}, "ix_events_created_at_id"),
}


async def _fill(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("TRUNCATE events.events"))
        await session.execute(
            text(
                "INSERT INTO events.events (title, description, date, time, location, created_at, updated_at, version) "
                "SELECT 'Event ' || n, 'rare' || n, date '2015-01-01' + n % 3650, time '10:00', 'City ' || n % 200, "
                "timestamptz '2015-01-01' + n * interval '1 minute', now(), 1 FROM generate_series(1, 20000) n"
            )
        )
    async with database.writer.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(
            text("VACUUM ANALYZE events.events")
        )


@pytest.fixture
async def plans(migrated_postgresql: URL) -> Any:
    """Explains the statement of a list on a table of 20,000 events, none of which is upcoming."""
    pool = AsyncDBPool(DatabaseConfig(url=migrated_postgresql.render_as_string(hide_password=False)))
    database = pool.database("events")
    async with database.read() as session:
        is_filled = await session.scalar(text("SELECT count(*) FROM events.events")) == 20000
    if not is_filled:  # by the test before
        await _fill(database)

    async def explain(query: EventQuery) -> str:
        """Return the plan of the statement that `find` runs."""
        asked: list[tuple[str, Any]] = []

        def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
            asked.append((statement, values))

        event.listen(database.reader.sync_engine, "before_cursor_execute", note)
        async with database.read() as session:
            await EventRepository.of_all(session).find(query)
        event.remove(database.reader.sync_engine, "before_cursor_execute", note)
        statement, values = asked[0]
        async with database.reader.connect() as connection:
            return "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}", values)).scalars())

    yield explain
    await pool.close()


@pytest.mark.integration
@pytest.mark.parametrize("filter_", FILTERS)
async def test_every_filter_and_order_has_an_index(plans: Any, filter_: str) -> None:
    query, index = FILTERS[filter_]
    plan = await plans(EventQuery(**query, cursor=""))  # type: ignore[arg-type]  # a table of many types
    assert index in plan, plan
    assert "Seq Scan" not in plan


async def test_every_list_accepts_a_page_request(application: Application) -> None:
    async with application.kernel.pool.database("events").read() as session:
        page = await EventRepository.of_all(session).page(PageRequest(), EventOut)
    assert page.items == []


@pytest.mark.integration
async def test_an_event_may_name_an_image_that_exists(client: httpx2.AsyncClient) -> None:
    """The check goes through the contract of images, because no foreign key crosses modules."""
    from tests.modules.images.pictures import picture  # noqa: PLC0415  # events can be tested without images

    image = (await client.post("/api/v1/images", files={"file": ("x", picture())})).json()
    event = await create(client, image_id=image["id"])
    assert event["image_id"] == image["id"]
    patched = await client.patch(f"{URL_}/{event['id']}", json={"image_id": None})
    assert patched.json()["image_id"] is None
    refused = await client.patch(f"{URL_}/{event['id']}", json={"image_id": image["id"] + 1})
    assert refused.json()["errors"][0]["field"] == "body.image_id"
