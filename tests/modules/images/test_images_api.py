"""Images over HTTP, on SQLite and on PostgreSQL, with their bytes in a directory."""

import asyncio
import gc
import hashlib
import io
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from starlette.datastructures import UploadFile

from kernel.application import Application, create_app
from kernel.ext.inspection.described import describe
from kernel.settings import Settings
from kernel.testing import Callers, settings_for
from modules.images.contract import ImageInfo, Images
from modules.images.decoding import Decoded, Decoder
from modules.images.repository import ImageRepository
from tests.modules.images.pictures import FORMATS, flat_png, picture

pytestmark = pytest.mark.integration

URL = "/api/v1/images"


async def upload(client: httpx2.AsyncClient, data: bytes | None = None, caption: str = "") -> dict[str, Any]:
    files = {"file": ("x.png", picture() if data is None else data, "image/png")}
    answer = await client.post(URL, files=files, data={"caption": caption})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def kept(settings: Settings) -> list[Path]:
    folder = Path(settings.modules["images"].storage_url.removeprefix("file://"))  # type: ignore[attr-defined]  # its own
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", FORMATS)
async def test_an_upload_is_returned_byte_for_byte(client: httpx2.AsyncClient, name: str) -> None:
    data = picture(name)
    answer = await client.post(URL, files={"file": ("../../evil.exe", data, "text/html")}, data={"caption": "A cat"})
    assert answer.status_code == 201
    image = answer.json()
    assert (image["content_type"], image["width"], image["height"]) == (FORMATS[name], 64, 48)
    assert (image["caption"], image["size_bytes"], image["version"]) == ("A cat", len(data), 1)
    assert answer.headers["location"] == f"{URL}/{image['id']}"
    assert answer.headers["etag"] == '"1"'
    assert "evil" not in answer.text
    assert "key" not in answer.text
    assert (await client.get(answer.headers["location"])).json() == image
    content = await client.get(f"{URL}/{image['id']}/content")
    assert content.content == data
    assert content.headers["content-type"] == FORMATS[name]
    assert content.headers["x-content-type-options"] == "nosniff"
    assert content.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert f"image-{image['id']}." in content.headers["content-disposition"]


async def test_a_thumbnail_is_small_and_re_encoded(client: httpx2.AsyncClient) -> None:
    image = await upload(client, picture("JPEG", (800, 400)))
    answer = await client.get(f"{URL}/{image['id']}/thumbnail")
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as thumbnail:
        assert thumbnail.size == (320, 160)
    again = await client.get(f"{URL}/{image['id']}/thumbnail", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_script_behind_a_picture_stays_a_picture(client: httpx2.AsyncClient) -> None:
    data = picture("PNG") + b"<script>alert(1)</script>"
    image = await upload(client, data)
    content = await client.get(f"{URL}/{image['id']}/content")
    assert content.headers["content-type"] == "image/png"
    assert content.headers["x-content-type-options"] == "nosniff"
    assert b"script" not in (await client.get(f"{URL}/{image['id']}/thumbnail")).content


async def test_content_supports_conditional_and_range_requests(client: httpx2.AsyncClient) -> None:
    data = picture()
    image = await upload(client, data)
    content = f"{URL}/{image['id']}/content"
    tag = f'"{hashlib.sha256(data).hexdigest()}"'

    async def get(**headers: str) -> httpx2.Response:
        return await client.get(content, headers={name.replace("_", "-"): value for name, value in headers.items()})

    unchanged = await get(if_none_match=tag)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    for header, start, end in (
        ("bytes=0-9", 0, 10),
        ("bytes=20-", 20, len(data)),
        ("bytes=-7", len(data) - 7, len(data)),
    ):
        part = await get(range=header)
        assert (part.status_code, part.content) == (206, data[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
        assert part.headers["content-length"] == str(end - start)
    assert (await get(range="bytes=0-9", if_range=tag)).status_code == 206
    assert (await get(range="bytes=0-9", if_range='"other"')).content == data
    assert (await get(range="bytes=0-1,4-5")).content == data
    beyond = await get(range=f"bytes={len(data)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert beyond.headers["content-type"] == "application/problem+json"


async def test_a_caption_changes_only_from_the_version_that_was_seen(client: httpx2.AsyncClient) -> None:
    image = await upload(client)
    changed = await client.patch(f"{URL}/{image['id']}", json={"caption": "New"}, headers={"if-match": '"1"'})
    assert (changed.status_code, changed.json()["caption"], changed.headers["etag"]) == (200, "New", '"2"')
    stale = await client.patch(f"{URL}/{image['id']}", json={"caption": "Old"}, headers={"if-match": '"1"'})
    assert stale.status_code == 412
    for body in ({"caption": None}, {"caption": "x" * 501}, {"width": 5}):
        assert (await client.patch(f"{URL}/{image['id']}", json=body)).status_code == 422


async def test_images_are_listed_newest_first(client: httpx2.AsyncClient) -> None:
    ids = [(await upload(client))["id"] for _ in range(3)]
    page = (await client.get(URL, params={"limit": 2})).json()
    assert ([image["id"] for image in page["items"]], page["total"]) == (ids[:0:-1], 3)
    rest = (await client.get(URL, params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert ([image["id"] for image in rest["items"]], rest["next_cursor"]) == (ids[:1], None)


async def test_a_deleted_image_is_not_found_and_its_bytes_are_deleted(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    image = await upload(client)
    assert len(kept(settings)) == 2
    assert (await client.delete(f"{URL}/{image['id']}", headers={"if-match": '"9"'})).status_code == 412
    assert len(kept(settings)) == 2
    assert (await client.delete(f"{URL}/{image['id']}")).status_code == 204
    assert kept(settings) == []
    for path in ("", "/content", "/thumbnail"):
        assert (await client.get(f"{URL}/{image['id']}{path}")).status_code == 404
    assert (await client.delete(f"{URL}/{image['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 415),
        (b"<svg/>", 415),
        (b"%!PS-Adobe", 415),
        (picture("TIFF"), 415),
        (picture()[:100], 422),
        (b"\xff\xd8\xff" + b"x" * 100, 422),
    ],
)
async def test_a_file_that_is_not_a_picture_is_refused_and_not_stored(
    client: httpx2.AsyncClient, settings: Settings, data: bytes, status: int
) -> None:
    answer = await client.post(URL, files={"file": ("x.png", data, "image/png")})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert kept(settings) == []
    assert (await client.get(URL)).json()["total"] == 0


async def test_an_invalid_form_is_refused(client: httpx2.AsyncClient, settings: Settings) -> None:
    data = picture()
    two = [("file", ("a.png", data, "image/png")), ("file", ("b.png", data, "image/png"))]
    many = [(f"f{number}", ("a.png", b"x", "image/png")) for number in range(1001)]
    for answer, status in (
        (await client.post(URL, data={"caption": "x"}, files={"other": ("a", b"", "x/y")}), 422),
        (await client.post(URL, json={"file": "x"}), 415),
        (await client.post(URL, files=two), 400),
        (await client.post(URL, files=many), 400),
        (await client.post(URL, files={"file": ("x", data)}, data={"caption": "x" * 501}), 422),
        (await client.post(URL, files={"file": ("x", data)}, data={"caption": "a\x00b"}), 422),
    ):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert kept(settings) == []


# Starlette leaves the file of an incomplete form to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:Unclosed file:ResourceWarning")
async def test_an_incomplete_form_is_refused(client: httpx2.AsyncClient, settings: Settings) -> None:
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n' + picture()[:50]
    answer = await client.post(URL, content=cut, headers={"content-type": "multipart/form-data; boundary=b"})
    gc.collect()
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert kept(settings) == []


async def test_a_file_that_is_too_large_is_refused(root: Path, tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'data'}",
        "IMAGES_STORAGE_URL": str(tmp_path / "images"),
        "IMAGES_MAX_UPLOAD_BYTES": "2000",
    }
    app = create_app(settings_for(root, variables))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        for size in ((60, 60), (400, 400)):  # Above the limit of the file, and above that of the body.
            answer = await client.post(URL, files={"file": ("x", picture(size=size))})
            assert answer.status_code == 413
            assert answer.headers["content-type"] == "application/problem+json"


async def test_too_many_pixels_are_refused(root: Path, tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'data'}",
        "IMAGES_STORAGE_URL": "memory:///",
        "IMAGES_MAX_PIXELS": "1000",
    }
    app = create_app(settings_for(root, variables))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        answer = await client.post(URL, files={"file": ("x", picture())})
        assert (answer.status_code, "1,000" in answer.text) == (422, True)
        assert (await client.post(URL, files={"file": ("x", picture(size=(20, 20)))})).status_code == 201


async def test_a_row_that_cannot_be_written_leaves_no_bytes(
    client: httpx2.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(ImageRepository, "create", fail)
    assert (await client.post(URL, files={"file": ("x", picture())})).status_code == 500
    assert kept(settings) == []


async def test_a_failing_storage_gives_503_and_leaves_no_row(
    client: httpx2.AsyncClient, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await upload(client)

    async def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("obstore.put_async", full)
    monkeypatch.setattr("obstore.get_async", full)
    for answer in (
        await client.post(URL, files={"file": ("x", picture())}),
        await client.get(f"{URL}/{image['id']}/content"),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await client.get(URL)).json()["total"] == 1
    monkeypatch.setattr("obstore.head_async", full)
    assert (await client.get("/health/ready")).json()["errors"][0]["field"] == "images.storage"


async def test_missing_bytes_are_not_found(client: httpx2.AsyncClient, settings: Settings) -> None:
    image = await upload(client)
    for path in kept(settings):
        path.unlink()
    assert (await client.get(f"{URL}/{image['id']}/content")).status_code == 404


class Gate:
    """Wraps the decoder: counts the pictures that reach it, and blocks until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = asyncio.Event()
        self.running = self.most = 0
        self.order: list[bytes] = []
        decode = Decoder.decode

        async def counted(decoder: Decoder, data: bytes) -> Decoded:
            self.running += 1
            self.most = max(self.most, self.running)
            self.order.append(data)
            try:
                await self.is_open.wait()
                return await decode(decoder, data)
            finally:
                self.running -= 1

        monkeypatch.setattr(Decoder, "decode", counted)


async def until_refused(sent: list[asyncio.Task[httpx2.Response]], count: int) -> None:
    done: set[asyncio.Task[httpx2.Response]] = set()
    while len(done) < count:
        done, _ = await asyncio.wait(sent, timeout=0.01)


async def test_decoding_is_limited_and_does_not_block_the_event_loop(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    gate.is_open.set()
    data = flat_png(2000, 8, 2)
    uploads = [asyncio.create_task(upload(client, data)) for _ in range(6)]
    slowest = 0.0
    while not all(task.done() for task in uploads):
        started_at = time.perf_counter()
        assert (await client.get("/health/live")).status_code == 200
        slowest = max(slowest, time.perf_counter() - started_at)
        await asyncio.sleep(0.005)
    await asyncio.gather(*uploads)
    assert gate.most == 1
    assert slowest < 0.3, "a probe waited for the decoders"


async def test_no_more_pictures_wait_than_the_limit(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    sent = [asyncio.create_task(client.post(URL, files={"file": ("a.png", picture(), "image/png")})) for _ in range(37)]
    await until_refused(sent, 9)
    gate.is_open.set()
    statuses = Counter((one.status_code, one.headers.get("retry-after")) for one in await asyncio.gather(*sent))
    assert statuses == {(201, None): 28, (503, "1"): 9}


async def test_the_uploads_of_one_caller_refuse_none_of_another_and_take_turns_with_them(
    application: Application, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 uploads of one caller made every other upload 503."""
    gate, callers = Gate(monkeypatch), Callers(application)
    alice, bob = picture(size=(10, 10)), picture(size=(20, 20))

    def send(data: bytes, name: str) -> asyncio.Task[httpx2.Response]:
        headers = callers.headers(name, "images:write")
        return asyncio.create_task(client.post(URL, files={"file": ("a.png", data, "image/png")}, headers=headers))

    alices = [send(alice, "alice") for _ in range(60)]
    await until_refused(alices, 32)
    bobs = [send(bob, "bob") for _ in range(3)]
    await until_refused(alices, 35)
    gate.is_open.set()
    assert Counter(one.status_code for one in await asyncio.gather(*bobs)) == {201: 3}
    assert Counter(one.status_code for one in await asyncio.gather(*alices)) == {201: 25, 503: 35}
    assert gate.order[:15].count(bob) == 3, "the other caller's upload was not among the first"


async def test_an_upload_that_waits_is_not_in_memory(
    application: Application, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reads = Gate(monkeypatch), 0
    read = UploadFile.read

    async def counted(file: UploadFile, size: int = -1) -> bytes:
        nonlocal reads
        reads += 1
        return await read(file, size)

    monkeypatch.setattr(UploadFile, "read", counted)
    sent = [asyncio.create_task(client.post(URL, files={"file": ("a.png", picture(), "image/png")})) for _ in range(29)]
    await until_refused(sent, 1)
    assert reads == 8
    gate.is_open.set()
    await asyncio.gather(*sent)
    assert reads == 28


async def test_other_modules_use_the_contract(client: httpx2.AsyncClient, application: Application) -> None:
    image = await upload(client, caption="A cat")
    images = application.kernel.contracts[Images]
    assert isinstance(images, Images)
    expected = ImageInfo(id=image["id"], caption="A cat", content_type="image/png", width=64, height=48)
    assert await images.get(image["id"]) == expected
    assert await images.get(10**6) is None


def test_storage_secrets_are_masked(root: Path) -> None:
    variables = {"IMAGES_STORAGE_URL": "s3://bucket", "IMAGES_STORAGE_OPTIONS__SECRET_ACCESS_KEY": "hunter2"}
    settings = settings_for(root, variables)
    assert settings.modules["images"].storage_options["secret_access_key"].get_secret_value() == "hunter2"  # type: ignore[attr-defined]  # its own
    assert "hunter2" not in repr(settings.modules) + str(list(describe(settings)))
