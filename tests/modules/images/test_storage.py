"""The object store: the same code for a directory and for S3."""

import resource
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from kernel import NotFound, Unavailable
from modules.images.settings import ImagesSettings
from modules.images.storage import ImageStorage


class _S3(BaseHTTPRequestHandler):
    """The part of S3 that a store of images uses."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}

    def do_PUT(self) -> None:  # http.server calls this name.
        self.objects[self.path] = self._body()
        self._answer(200)

    def do_GET(self) -> None:  # http.server calls this name.
        data = self.objects.get(self.path)
        if data is None:
            self._answer(404)
        elif "Range" in self.headers:
            first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            part = data[first : last + 1]
            self._answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})
        else:
            self._answer(200, data)

    do_HEAD = do_GET  # noqa: N815  # http.server calls it

    def do_POST(self) -> None:  # http.server calls this name.
        key = self._body().decode().partition("<Key>")[2].partition("</Key>")[0]
        self.objects.pop(f"/bucket/{key}", None)
        self._answer(200, f"<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>".encode())

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        common = {"Content-Length": str(len(data)), "ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        for name, value in (common | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        pass


def s3(port: int) -> ImagesSettings:
    options = {"endpoint": f"http://127.0.0.1:{port}", "region": "r", "access_key_id": "a", "secret_access_key": "b"}
    secrets = {name: SecretStr(value) for name, value in options.items()}
    return ImagesSettings(storage_url="s3://bucket/pictures", storage_options=secrets)


@pytest.fixture(params=["directory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ImageStorage]:
    if request.param == "directory":
        yield ImageStorage.open(ImagesSettings(storage_url="images"), tmp_path)
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("S3", (_S3,), {"objects": {}}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield ImageStorage.open(s3(server.server_port), tmp_path)
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_stored_file_can_be_read_whole_and_in_part_until_it_is_deleted(storage: ImageStorage) -> None:
    key, data = storage.new_key(), bytes(range(256)) * 4000
    await storage.put(key, data)
    assert await storage.read_all(key) == data
    parts = [part async for part in await storage.read(key, 0, len(data))]
    assert (b"".join(parts), len(parts) > 1) == (data, True)
    assert b"".join([part async for part in await storage.read(key, 7, 300)]) == data[7:300]
    await storage.delete(key, key)
    with pytest.raises(NotFound):
        await storage.read(key, 0, 5)
    with pytest.raises(NotFound):
        await storage.read_all(key)


async def test_a_store_that_answers_is_healthy(storage: ImageStorage) -> None:
    await storage.check()


@pytest.mark.integration
async def test_an_unreachable_store_is_reported_soon(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _S3) as server:
        port = server.server_port
    storage = ImageStorage.open(s3(port), tmp_path)
    with pytest.raises(Unavailable):
        await storage.put("a", b"x")
    with pytest.raises(Exception, match="error"):
        await storage.check()


async def test_a_full_disk_keeps_no_part_of_a_file(tmp_path: Path) -> None:
    storage = ImageStorage.open(ImagesSettings(storage_url="images"), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(HTTPException, match="507"):
            await storage.put("aa/bb/large", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))  # noqa: ASYNC240  # a test may wait for a directory


@pytest.mark.parametrize("url", ["pictures", "file:pictures", "file://{root}/pictures"])
async def test_a_directory_is_relative_to_the_project_or_absolute(tmp_path: Path, url: str) -> None:
    storage = ImageStorage.open(ImagesSettings(storage_url=url.format(root=tmp_path)), tmp_path)
    await storage.put("a", b"x")
    assert (tmp_path / "pictures" / "a").read_bytes() == b"x"


def test_a_key_is_random_and_never_repeats() -> None:
    keys = {ImageStorage.new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) == 38 and key[:2] + key[3:5] == key[6:10] for key in keys)
