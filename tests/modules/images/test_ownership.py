"""Every caller can read an image, because public events show it; only its owner can change it (OWASP API1:2023)."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from kernel import Principal
from kernel.application import Application
from kernel.database.errors import NotAllowed
from kernel.ext.membership import get_many
from kernel.ext.messaging.testing import Messages
from kernel.testing import Callers
from modules.images.contract import ImageDeleted
from modules.images.repository import ImageRepository
from modules.images.schemas import ImageOut, ImageQuery, StoredImage
from tests.modules.images.pictures import picture

pytestmark = [pytest.mark.integration, pytest.mark.boots("images")]

URL = "/api/v1/images"
DATA = picture()
READS = {"GET": ("", "/content", "/thumbnail"), "HEAD": ("/content",)}
CHANGES: dict[str, dict[str, Any]] = {"PATCH": {"json": {"caption": "Mine"}}, "DELETE": {}}
PRECONDITIONS = {
    "without a condition": {},
    "if it is the first": {"if-match": '"1"'},
    "if it is": {"if-match": "*"},
    "if it is another": {"if-match": '"7"'},
}


class Gallery:
    """Alice and Bob, who upload images, and the other callers."""

    def __init__(self, client: httpx2.AsyncClient, callers: Callers) -> None:
        self.client = client
        self.alice, self.bob = (callers.headers(name, "images:read", "images:write") for name in ("alice", "bob"))
        self.editor = callers.headers("editor", "images:read", "images:write", "images:admin")

    async def has(self, headers: dict[str, str], **options: Any) -> str:
        answer = await self.upload(headers, caption="Hers", **options)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    async def upload(self, headers: dict[str, str], **form: Any) -> httpx2.Response:
        return await self.client.post(URL, files={"file": ("x", DATA)}, data=form, headers=headers)

    async def ask(self, method: str, path: str, *headers: dict[str, str], **options: Any) -> int:
        sent = {name: value for each in headers for name, value in each.items()}
        return (await self.client.request(method, path, headers=sent, **options)).status_code


@pytest.fixture
async def gallery(client: httpx2.AsyncClient, callers: Callers) -> Gallery:
    return Gallery(client, callers)


async def test_every_caller_reads_every_image(gallery: Gallery) -> None:
    image = await gallery.has(gallery.alice)
    for caller in (gallery.alice, gallery.bob, gallery.editor):
        for method, paths in READS.items():
            for path in paths:
                assert await gallery.ask(method, image + path, caller) == 200
        for query in ({}, {"cursor": ""}, {"sort": "created_at"}):
            page = (await gallery.client.get(URL, params=query, headers=caller)).json()
            assert [one["caption"] for one in page["items"]] == ["Hers"]
            assert page["total"] == (None if "cursor" in query else 1)


@pytest.mark.parametrize("precondition", PRECONDITIONS)
@pytest.mark.parametrize("method", CHANGES)
async def test_no_method_changes_anothers_image(
    gallery: Gallery, messages: Messages, tmp_path: Path, method: str, precondition: str
) -> None:
    """Naive: the bytes are deleted, and events forget the image."""
    image = await gallery.has(gallery.alice)
    assert await gallery.ask(method, image, gallery.bob, PRECONDITIONS[precondition], **CHANGES[method]) == 403
    assert (
        await gallery.ask(method, f"{URL}/999999", gallery.bob, PRECONDITIONS[precondition], **CHANGES[method]) == 404
    )
    read = (await gallery.client.get(image, headers=gallery.alice)).json()
    assert (read["caption"], read["version"]) == ("Hers", 1)
    assert (await gallery.client.get(f"{image}/content", headers=gallery.alice)).content == DATA
    assert len([path for path in (tmp_path / "images").rglob("*") if path.is_file()]) == 2
    assert await messages.published(ImageDeleted) == []


async def test_its_owner_changes_and_deletes_it(gallery: Gallery) -> None:
    for owner in (gallery.alice, gallery.bob):
        image = await gallery.has(owner)
        assert await gallery.ask("PATCH", image, owner, {"if-match": '"7"'}, **CHANGES["PATCH"]) == 412
        assert await gallery.ask("PATCH", image, owner, {"if-match": '"1"'}, **CHANGES["PATCH"]) == 200
        assert await gallery.ask("DELETE", image, owner, {"if-match": '"1"'}) == 412
        assert await gallery.ask("DELETE", image, owner) == 204


async def test_an_editor_changes_and_deletes_anothers_image_and_its_owner_stays(gallery: Gallery) -> None:
    image = await gallery.has(gallery.alice)
    assert await gallery.ask("PATCH", image, gallery.editor, json={"caption": "Better"}) == 200
    assert await gallery.ask("PATCH", image, gallery.bob, json={"caption": "Mine"}) == 403
    assert await gallery.ask("PATCH", image, gallery.alice, json={"caption": "Best"}) == 200
    assert await gallery.ask("DELETE", image, gallery.editor) == 204


async def test_a_repeated_upload_belongs_to_its_first_sender(gallery: Gallery) -> None:
    once = {"Idempotency-Key": "6c1f1d3e"}
    first, again, bobs = [await gallery.has(who | once) for who in (gallery.alice, gallery.alice, gallery.bob)]
    assert first == again != bobs
    assert await gallery.ask("DELETE", first, gallery.bob) == 403
    assert await gallery.ask("DELETE", bobs, gallery.bob) == 204


async def test_no_request_sets_an_owner_and_no_response_names_one(gallery: Gallery) -> None:
    assert (await gallery.upload(gallery.alice, owner="local|bob")).status_code == 422
    made = await gallery.upload(gallery.alice)
    image = made.headers["location"]
    assert await gallery.ask("PATCH", image, gallery.alice, json={"owner": "local|bob"}) == 422
    patched = await gallery.client.patch(image, json={"caption": "A"}, headers=gallery.alice)
    one, page = [(await gallery.client.get(path, headers=gallery.alice)).json() for path in (image, URL)]
    for shown in (made.json(), patched.json(), one, page["items"][0]):
        assert "owner" not in shown


async def test_one_subject_of_two_issuers_is_two_callers(application: Application) -> None:
    async with application.kernel.pool.database("images").transaction() as session:
        hers = ImageRepository(session, Principal("alice", issuer="https://a"))
        made = await hers.add(**_columns())
        with pytest.raises(NotAllowed):
            await ImageRepository(session, Principal("alice", issuer="https://b")).delete(made.id)
        assert await hers.delete(made.id) is True


async def test_all_callers_read_images_without_an_owner_and_editors_change_them(
    gallery: Gallery, application: Application
) -> None:
    async with application.kernel.pool.database("images").transaction() as session:
        old = await ImageRepository.of_all(session).create(into=ImageOut, owner=None, **_columns())
    assert await gallery.ask("GET", f"{URL}/{old.id}", gallery.bob) == 200
    for method, options in CHANGES.items():
        assert await gallery.ask(method, f"{URL}/{old.id}", gallery.bob, **options) == 403
        assert await gallery.ask(method, f"{URL}/{old.id}", gallery.editor, **options) in {200, 204}


async def test_no_method_of_the_repository_bypasses_the_rule(application: Application) -> None:
    """A later route may use any method of the repository."""
    database = application.kernel.pool.database("images")
    async with database.transaction() as session:
        image = (await ImageRepository(session, Principal("alice")).add(**_columns())).id
    for way in (database.read, database.transaction):
        async with way() as session:
            await _sees(ImageRepository(session, Principal("bob")), image)
            await session.connection()  # From here on statements go through SQLAlchemy's ORM.
            await _sees(ImageRepository(session, Principal("bob")), image)
    async with database.transaction() as session:
        bob = ImageRepository(session, Principal("bob"))
        await _cannot_change(bob, image)
        await session.connection()
        await _cannot_change(bob, image)


async def _sees(bob: ImageRepository, image: int) -> None:
    one = await bob.get_by_id(image, into=StoredImage)
    assert one is not None
    assert await bob.referenced([one.content_key, "nothing"]) == {one.content_key}
    assert [each.id for each in await get_many(bob, [image])] == [image]
    assert [each.id for each in await bob.get_all(into=ImageOut)] == [image]
    assert [each.id for each in (await bob.find(ImageQuery())).items] == [image]
    assert (await bob.count(), await bob.exists(image)) == (1, True)


async def _cannot_change(bob: ImageRepository, image: int) -> None:
    for change in (
        bob.update(image, caption="Mine"),
        bob.update(image, into=ImageOut, caption="Mine"),
        bob.update(image, into=ImageOut, expected_version=1, caption="Mine"),
        bob.update(image, into=ImageOut, expected_version=[1, 2], caption="Mine"),
        bob.delete(image),
        bob.delete(image, expected_version=[1, 2]),
    ):
        with pytest.raises(NotAllowed):
            await change


def _columns() -> dict[str, str | int]:
    """Return the columns of a picture without stored bytes."""
    keys = {"content_key": "aa/1", "thumbnail_key": "bb/1"}
    return {
        "caption": "Hers",
        "content_type": "image/png",
        "width": 1,
        "height": 1,
        "size_bytes": 1,
        "sha256": "0",
        **keys,
    }
