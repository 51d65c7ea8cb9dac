"""Notes over HTTP, on SQLite and on PostgreSQL."""

import httpx2
import pytest

pytestmark = pytest.mark.boots("notes")

NOTES = "/api/v1/notes"


async def test_a_created_note_is_read_back(client: httpx2.AsyncClient) -> None:
    created = await client.post(NOTES, json={"title": "Milk", "text": "two litres"})
    assert created.status_code == 201
    read = await client.get(created.headers["location"])
    assert read.status_code == 200
    assert read.json() == {"id": created.json()["id"], "title": "Milk", "text": "two litres", "version": 1}


async def test_notes_are_listed_by_title_a_page_at_a_time(client: httpx2.AsyncClient) -> None:
    for title in ("c", "a", "b"):
        await client.post(NOTES, json={"title": title})
    first = (await client.get(NOTES, params={"limit": 2})).json()
    assert [note["title"] for note in first] == ["a", "b"]
    second = (await client.get(NOTES, params={"limit": 2, "offset": 2})).json()
    assert [note["title"] for note in second] == ["c"]


async def test_notes_are_filtered_by_title(client: httpx2.AsyncClient) -> None:
    for title in ("a", "b"):
        await client.post(NOTES, json={"title": title})
    assert [note["title"] for note in (await client.get(NOTES, params={"title": "b"})).json()] == ["b"]


async def test_a_patch_changes_only_the_given_fields(client: httpx2.AsyncClient) -> None:
    place = (await client.post(NOTES, json={"title": "Milk", "text": "two litres"})).headers["location"]
    changed = await client.patch(place, json={"title": "Oat milk"}, headers={"If-Match": '"1"'})
    assert changed.status_code == 200
    assert changed.json() | {"id": 0} == {"id": 0, "title": "Oat milk", "text": "two litres", "version": 2}


async def test_a_patch_of_an_outdated_version_is_refused(client: httpx2.AsyncClient) -> None:
    place = (await client.post(NOTES, json={"title": "Milk"})).headers["location"]
    await client.patch(place, json={"title": "Oat milk"})
    outdated = await client.patch(place, json={"title": "Butter"}, headers={"If-Match": '"1"'})
    assert outdated.status_code == 412
    assert (await client.get(place)).json()["title"] == "Oat milk"


async def test_a_deleted_note_is_gone(client: httpx2.AsyncClient) -> None:
    place = (await client.post(NOTES, json={"title": "Milk"})).headers["location"]
    assert (await client.delete(place)).status_code == 204
    gone = await client.get(place)
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")


async def test_a_known_version_is_answered_without_a_body(client: httpx2.AsyncClient) -> None:
    created = await client.post(NOTES, json={"title": "Milk"})
    known = await client.get(created.headers["location"], headers={"If-None-Match": created.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


async def test_a_wrong_body_is_a_problem_that_names_the_field(client: httpx2.AsyncClient) -> None:
    wrong = await client.post(NOTES, json={"title": ""})
    assert wrong.status_code == 422
    assert [error["field"] for error in wrong.json()["errors"]] == ["body.title"]
