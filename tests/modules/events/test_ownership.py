"""Another caller's draft is 404, and another caller's event is read-only (OWASP API1:2023)."""

from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import Principal
from kernel.application import Application
from kernel.database.errors import NotAllowed
from kernel.ext.membership import get_many
from kernel.testing import Callers, Fakes
from modules.events.models import Event
from modules.events.repository import EventRepository
from modules.events.schemas import EventIn, EventOut
from modules.images.contract import ImageInfo, Images

URL = "/api/v1/events"
PLAY = {"title": "Play", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}
CHANGES: dict[str, dict[str, Any]] = {"PUT": {"json": PLAY}, "PATCH": {"json": {"title": "Mine"}}, "DELETE": {}}
PRECONDITIONS = {
    "without a condition": {},
    "if it has version 1": {"if-match": '"1"'},
    "if it exists": {"if-match": "*"},
}


class Stage:
    """Alice's event and her draft, and the other callers."""

    def __init__(self, client: httpx2.AsyncClient, callers: Callers) -> None:
        self.client = client
        self.alice, self.bob = (callers.headers(name, "events:read", "events:write") for name in ("alice", "bob"))
        self.editor = callers.headers("editor", "events:read", "events:write", "events:admin")

    async def has(self, headers: dict[str, str], **changes: Any) -> str:
        answer = await self.client.post(URL, json=PLAY | changes, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    async def ask(self, method: str, path: str, *headers: dict[str, str], **options: Any) -> int:
        sent = {name: value for each in headers for name, value in each.items()}
        return (await self.client.request(method, path, headers=sent, **options)).status_code

    async def titles(self, headers: dict[str, str], **query: Any) -> tuple[list[str], int | None]:
        page = (await self.client.get(URL, params=query, headers=headers)).json()
        return sorted(event["title"] for event in page["items"]), page["total"]


@pytest.fixture
async def stage(client: httpx2.AsyncClient, callers: Callers) -> Stage:
    return Stage(client, callers)


@pytest.mark.parametrize("precondition", PRECONDITIONS)
@pytest.mark.parametrize("method", ["GET", *CHANGES])
async def test_anothers_draft_is_not_found_by_any_method(stage: Stage, method: str, precondition: str) -> None:
    """Naive: 403, or 412 for a wrong version, which reveals that the draft exists."""
    draft = await stage.has(stage.alice, is_draft=True)
    options = CHANGES.get(method, {})
    assert await stage.ask(method, draft, stage.bob, PRECONDITIONS[precondition], **options) == 404
    unknown = draft.rpartition("/")[0] + "/999999"
    assert await stage.ask(method, unknown, stage.bob, PRECONDITIONS[precondition], **options) == 404
    assert await stage.ask("GET", draft, stage.alice) == 200


async def test_the_response_for_anothers_draft_equals_that_for_a_missing_event(stage: Stage) -> None:
    draft = await stage.has(stage.alice, is_draft=True)
    hidden, missing = [(await stage.client.get(path, headers=stage.bob)).json() for path in (draft, f"{URL}/999999")]
    assert {**hidden, "request_id": ""} == {**missing, "request_id": ""}


@pytest.mark.parametrize("precondition", PRECONDITIONS)
@pytest.mark.parametrize("method", CHANGES)
async def test_anothers_event_can_be_read_but_not_changed(stage: Stage, method: str, precondition: str) -> None:
    event = await stage.has(stage.alice)
    assert await stage.ask("GET", event, stage.bob) == 200
    assert await stage.ask(method, event, stage.bob, PRECONDITIONS[precondition], **CHANGES[method]) == 403
    read = (await stage.client.get(event, headers=stage.alice)).json()
    assert (read["title"], read["version"]) == ("Play", 1), "the event must not change"


@pytest.mark.boots("events")
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_caller_without_rights_on_an_event_learns_nothing_about_images(
    stage: Stage, fakes: Fakes, callers: Callers, method: str
) -> None:
    """Naive: 422 if the image is unknown, which reveals the images to a caller without rights on the event."""
    draft, event = await stage.has(stage.alice, is_draft=True), await stage.has(stage.alice)
    before = (await stage.client.get(event, headers=stage.alice)).json()
    writer, stale = callers.headers("bob", "events:write"), {"if-match": '"7"'}
    answers = []
    for image in (ImageInfo(id=7, caption="", content_type="image/png", width=1, height=1), None):
        fakes[Images].get.answers(image)
        change = {"json": (PLAY if method == "PUT" else {}) | {"image_id": 7}}
        answers.append(
            [await stage.ask(method, path, writer, **change) for path in (f"{URL}/999999", draft, event)]
            + [await stage.ask(method, event, stage.alice, stale, **change)]
        )
    assert answers == [[404, 404, 403, 412]] * 2
    assert await stage.ask(method, event, stage.alice, **change) == 422
    assert (await stage.client.get(event, headers=stage.alice)).json() == before


async def test_lists_searches_pages_and_totals_omit_drafts_of_others(stage: Stage) -> None:
    for title, draft in (("Open", False), ("Hidden", True)):
        await stage.has(stage.alice, title=title, is_draft=draft)
    await stage.has(stage.bob, title="Secret", is_draft=True)
    for _ in range(2):  # The second time, from statements that were cached for another caller.
        assert await stage.titles(stage.alice) == (["Hidden", "Open"], 2)
        assert await stage.titles(stage.bob) == (["Open", "Secret"], 2)
        assert await stage.titles(stage.editor) == (["Hidden", "Open", "Secret"], 3)
        assert await stage.titles(stage.bob, q="hidden") == ([], 0)
        assert await stage.titles(stage.bob, location="Berlin", cursor="") == (["Open", "Secret"], None)
        assert await stage.titles(stage.bob, offset=5) == ([], 2)


async def test_an_editor_changes_anothers_event_and_its_owner_stays(stage: Stage) -> None:
    draft = await stage.has(stage.alice, is_draft=True)
    assert await stage.ask("PATCH", draft, stage.editor, json={"title": "Better"}) == 200
    assert await stage.ask("GET", draft, stage.bob) == 404
    assert await stage.ask("PATCH", draft, stage.alice, json={"is_draft": False}) == 200
    assert await stage.ask("GET", draft, stage.bob) == 200
    assert await stage.ask("PATCH", draft, stage.bob, json={"title": "Mine"}) == 403


async def test_no_request_sets_an_owner_and_no_response_names_one(stage: Stage) -> None:
    for method, path in (("POST", URL), ("PUT", await stage.has(stage.alice))):
        assert await stage.ask(method, path, stage.alice, json=PLAY | {"owner": "local|bob"}) == 422
    assert "owner" not in (await stage.client.get(URL, headers=stage.alice)).json()["items"][0]


async def test_one_subject_of_two_issuers_is_two_callers(application: Application) -> None:
    async with application.kernel.pool.database("events").transaction() as session:
        made = await EventRepository(session, Principal("alice", issuer="https://a")).create(
            into=EventOut, owner="https://a|alice", is_draft=True, **_values()
        )
        assert await EventRepository(session, Principal("alice", issuer="https://b")).exists(made.id) is False
        assert await EventRepository(session, Principal("alice", issuer="https://a")).exists(made.id) is True


async def test_all_callers_read_objects_without_an_owner_and_editors_change_them(
    stage: Stage, application: Application
) -> None:
    async with application.kernel.pool.database("events").transaction() as session:
        old = await EventRepository.of_all(session).create(into=EventOut, owner=None, **_values())
    assert await stage.ask("GET", f"{URL}/{old.id}", stage.bob) == 200
    assert await stage.ask("DELETE", f"{URL}/{old.id}", stage.bob) == 403
    assert await stage.ask("DELETE", f"{URL}/{old.id}", stage.editor) == 204


async def test_no_method_of_the_repository_bypasses_the_rule(application: Application) -> None:
    """A later route may use any method of the repository."""
    database = application.kernel.pool.database("events")
    async with database.transaction() as session:
        alice = EventRepository(session, Principal("alice"))
        draft = await alice.create(into=EventOut, owner="local|alice", is_draft=True, **_values())
        event = await alice.create(into=EventOut, owner="local|alice", is_draft=False, **_values())
    for way in (database.read, database.transaction):
        async with way() as session:
            await _sees_only_the_event(EventRepository(session, Principal("bob")), draft.id, event.id)
    async with database.transaction() as session:
        bob = EventRepository(session, Principal("bob"))
        assert await bob.update(draft.id, title="Mine") is None
        assert await bob.update(draft.id, into=EventOut, title="Mine") is None
        assert await bob.delete(draft.id) is False
        for change in (
            bob.update(event.id, title="Mine"),
            bob.update(event.id, into=EventOut, title="Mine"),
            bob.update(event.id, expected_version=[1, 2], into=EventOut, title="Mine"),
            bob.delete(event.id),
            bob.delete(event.id, expected_version=[1, 2]),
        ):
            with pytest.raises(NotAllowed):
                await change
        await _leave_the_driver(session)
        assert await bob.update(draft.id, into=EventOut, title="Mine") is None


async def _sees_only_the_event(bob: EventRepository, draft: int, event: int) -> None:
    assert (await bob.get_by_id(draft), await bob.get_by_id(draft, into=EventOut)) == (None, None)
    assert [one.id for one in await get_many(bob, [draft, event])] == [event]
    assert [one.id for one in await bob.get_all()] == [event]
    assert (await bob.count(), await bob.exists(draft), await bob.exists(event)) == (1, False, True)
    assert [one.id for one in await bob.all(bob.select().where(Event.title == "Play"), into=EventOut)] == [event]


async def _leave_the_driver(session: AsyncSession) -> None:
    """Make statements go through SQLAlchemy's ORM from here on."""
    await session.flush()


def _values() -> dict[str, Any]:
    return EventIn.model_validate(PLAY).model_dump(exclude={"is_draft"})
