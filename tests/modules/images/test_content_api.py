"""The bytes of images over HTTP: conditional requests, parts, and headers that make the content harmless."""

import io

import httpx2
import pytest
from PIL import Image

from tests.modules.images.pictures import FORMATS, picture

pytestmark = pytest.mark.integration

URL = "/api/v1/images"


async def upload(client: httpx2.AsyncClient, data: bytes) -> str:
    answer = await client.post(URL, files={"file": ("x", data)})
    assert answer.status_code == 201, answer.text
    return f"{URL}/{answer.json()['id']}"


async def test_head_returns_the_headers_of_get_without_its_bytes(client: httpx2.AsyncClient) -> None:
    where = f"{await upload(client, picture())}/content"
    whole = await client.get(where)
    head = await client.head(where, headers={"range": "bytes=0-3"})
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "accept-ranges", "cache-control", "content-disposition"):
        assert head.headers[name] == whole.headers[name]
    unchanged = await client.head(where, headers={"if-none-match": whole.headers["etag"]})
    assert unchanged.status_code == 304
    assert (await client.head(f"{URL}/999/content")).status_code == 404


@pytest.mark.parametrize("name", FORMATS)
async def test_an_image_that_contains_a_page_cannot_act_as_one(client: httpx2.AsyncClient, name: str) -> None:
    data = picture(name) + b"<html><script>alert(1)</script>"
    content = await client.get(f"{await upload(client, data)}/content", headers={"accept": "text/html"})
    assert content.content == data
    assert content.headers["content-type"] == FORMATS[name]
    assert content.headers["x-content-type-options"] == "nosniff"
    assert content.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_bytes_of_an_image_are_not_compressed(client: httpx2.AsyncClient) -> None:
    data = picture("GIF", (200, 200))
    where = f"{await upload(client, data)}/content"
    part = await client.get(where, headers={"accept-encoding": "gzip", "range": "bytes=0-2999"})
    assert (part.status_code, part.content, part.headers["content-length"]) == (206, data[:3000], "3000")
    assert "content-encoding" not in part.headers


async def test_a_cache_must_revalidate_because_an_image_may_be_deleted(client: httpx2.AsyncClient) -> None:
    where = await upload(client, picture())
    for part in ("content", "thumbnail"):
        answer = await client.get(f"{where}/{part}")
        assert answer.headers["cache-control"] == "private, no-cache"
        tag = {"if-none-match": answer.headers["etag"]}
        assert (await client.get(f"{where}/{part}", headers=tag)).status_code == 304
    await client.delete(where)
    for part in ("content", "thumbnail"):
        assert (await client.get(f"{where}/{part}", headers={"if-none-match": "*"})).status_code == 404


async def test_a_jpeg_bomb_is_refused_over_http(client: httpx2.AsyncClient) -> None:
    output = io.BytesIO()
    Image.new("L", (2000, 2000)).save(output, "JPEG", progressive=True)
    data = output.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    answer = await client.post(URL, files={"file": ("x", data[:-2] + scan * 500 + data[-2:])})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body.file")
    assert (await client.get(URL)).json()["total"] == 0
