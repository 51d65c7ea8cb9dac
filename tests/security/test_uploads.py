"""Malicious forms and files: refused and not stored, or stored and served harmlessly."""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.modules.images.pictures import FORMATS, picture
from tests.security.forms import BOUNDARY, IMAGES, form, part, upload
from tests.security.serving import Served, request, served

pytestmark = pytest.mark.integration

PNG = picture()
FILE = part('form-data; name="file"; filename="x.png"', PNG, "Content-Type: image/png")
KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("uploads")
    with served(root, folder, f"sqlite:///{folder / 'data'}") as started:
        yield started


@pytest.fixture(scope="module")
def tried(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Counts the cases, and prints the number at the end."""
    names: list[str] = []
    failed_before = request.session.testsfailed
    yield names
    failed = request.session.testsfailed - failed_before
    print(f"{len(names)} files, names and forms: {failed} faults")  # noqa: T201  # the figure


@pytest.fixture(autouse=True)
def _is_tried(request: pytest.FixtureRequest, tried: list[str]) -> None:
    tried.append(request.node.name)


def kept(server: Served) -> int:
    return sum(path.is_file() for path in (server.log.parent / "images").rglob("*"))


def animated(name: str, frames: int = 100) -> bytes:
    output = io.BytesIO()
    pictures = [Image.new("RGB", (200, 200), (number % 256, 0, 0)) for number in range(frames)]
    pictures[0].save(output, name, save_all=True, append_images=pictures[1:])
    return output.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a valid PNG with another chunk behind its header."""
    return PNG[:33] + chunk(kind, data) + PNG[33:]


SWOLLEN = zlib.compress(bytes(50_000_000), 9)
REFUSED_FILES: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\x89",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n",
    "PDF": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj",
    "TIFF": picture("TIFF"),
    "BMP": picture("BMP"),
    "ICO": picture("ICO"),
    "a page": b"<!doctype html><script>alert(1)</script>" + PNG,
    "a ZIP": b"PK\x03\x04" + PNG,
    "an executable": b"\x7fELF" + PNG,
    "PHP": b"<?php system($_GET['c']); ?>" + PNG,
    "ImageMagick's language": b"push graphic-context\nfill 'url(https://127.0.0.1/x)'\npop graphic-context",
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a picture behind blanks": b"  " + PNG,
    "a zTXt bomb": with_chunk(b"zTXt", b"name\0\0" + SWOLLEN),
    "an iTXt bomb": with_chunk(b"iTXt", b"name\0\1\0\0\0" + SWOLLEN),
    "an ICC bomb": with_chunk(b"iCCP", b"name\0\0" + SWOLLEN),
    "a PNG cut short": PNG[: len(PNG) // 2],
    "a JPEG cut short": picture("JPEG")[:300],
    "a GIF cut short": picture("GIF")[:900],
    "a WebP cut short": picture("WEBP")[:100],
    "a PNG with a wrong checksum": PNG[:40] + b"\xff" + PNG[41:],
}
HARMLESS_FILES: dict[str, bytes] = {
    "a picture with a page behind it": PNG + b"<html><script>alert(1)</script>",
    "a picture with PHP behind it": picture("JPEG") + b"<?php system($_GET['c']); ?>",
    "a picture that is a ZIP": picture("GIF") + b"PK\x05\x06" + bytes(18),
    "a picture that is a script": b"GIF89a" + picture("GIF")[6:] + b"/*;alert(1)//*/",
    "a page in a comment": with_chunk(b"tEXt", b"Comment\0<script>alert(1)</script>"),
    "a GIF of 100 frames": animated("GIF"),
    "a WebP of 100 frames": animated("WEBP"),
    "an APNG of 100 frames": animated("PNG"),
}
NAMES = (
    "../../../../tmp/evil.png",
    "..\\..\\evil.png",
    "/etc/passwd",
    "C:\\evil.png",
    "a\x00.png",
    "gpj.\u202egnp.exe",
    "x" * 5000,
    "",
    ".",
    "con",
    "$(touch evil).png",
    "<script>.png",
    "a%00.png",
    "\udcff.png",
    'a\\".png',
)


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_an_invalid_picture_is_refused_and_not_stored(server: Served, name: str) -> None:
    before = kept(server)
    answer = server.send(upload("x.png", REFUSED_FILES[name]))
    assert answer.statuses[0] in {415, 422}, answer.body[:200]
    assert kept(server) == before


@pytest.mark.parametrize("name", HARMLESS_FILES)
def test_a_picture_that_is_also_another_format_is_served_as_a_picture(server: Served, name: str) -> None:
    made = json.loads(server.send(upload("x.html", HARMLESS_FILES[name], "text/html")).body)
    assert made["content_type"] in FORMATS.values()
    content = server.send(request("GET", f"{IMAGES}/{made['id']}/content", {"Accept": "text/html"}))
    assert content.statuses == (200,)
    assert content.headers("content-type") == [made["content_type"]]
    assert content.headers("x-content-type-options") == ["nosniff"]
    assert content.headers("content-security-policy") == ["default-src 'none'; base-uri 'none'; frame-ancestors 'none'"]
    assert content.headers("content-disposition")[0].startswith(f'inline; filename="image-{made["id"]}.')
    thumbnail = server.send(request("GET", f"{IMAGES}/{made['id']}/thumbnail")).body
    assert b"script" not in thumbnail
    assert b"php" not in thumbnail
    with Image.open(io.BytesIO(thumbnail)) as small:
        assert getattr(small, "n_frames", 1) == 1


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_name_of_an_uploaded_file_is_not_used(server: Served, name: str) -> None:
    answer = server.send(upload(name, PNG))
    assert answer.statuses[0] in {201, 400, 422}, answer.body[:200]
    assert b"evil" not in answer.raw
    folder = server.log.parent
    assert {path.name for path in folder.iterdir()} <= {"data", "images", "served.log"}
    assert all(len(path.name) == 32 for path in (folder / "images").rglob("*") if path.is_file())
    assert "evil" not in server.said()


def _forms() -> Iterator[tuple[str, bytes, set[int]]]:
    refused = {400, 413, 415, 422}
    caption = part('form-data; name="caption"', b"x")
    yield "1,001 parts", form(FILE, *[caption] * 1000), {400}
    yield "1,001 files", form(*[FILE] * 1001), refused
    yield "two files", form(FILE, FILE), refused
    yield "an unknown field", form(FILE, part('form-data; name="other"', b"x")), refused
    yield "a field of 10 MB", form(FILE, part('form-data; name="caption"', b"x" * 10_000_000)), refused
    yield "a caption one too long", form(FILE, part('form-data; name="caption"', b"x" * 501)), refused
    yield "a caption as long as can be", form(FILE, part('form-data; name="caption"', b"x" * 500)), {201}
    yield "a caption of bad UTF-8", form(FILE, part('form-data; name="caption"', b"\xff\xfe")), refused | {201}
    yield "a caption with NUL", form(FILE, part('form-data; name="caption"', b"a\0b")), refused
    yield "a caption in UTF-16", form(FILE, part('form-data; name="caption"', "x".encode("utf-16"))), refused
    yield "the file as text", form(part('form-data; name="file"', PNG)), refused
    yield "the caption as a file", form(FILE, part('form-data; name="caption"; filename="x"', b"x")), refused
    yield "no parts", form(), refused
    yield "no file", form(caption), refused
    yield "a part without a name", form(part("form-data", b"x")), refused
    yield "a part without a head", form(f"--{BOUNDARY}\r\n\r\nx\r\n".encode()), refused
    yield "a part's head of 1 MB", form(part("form-data; name=file", PNG, "X-A: " + "a" * 1_000_000)), refused
    yield "1,000 headers of a part", form(part("form-data; name=file", PNG, *["X-A: a"] * 1000)), refused
    yield "NUL in a part's head", form(part('form-data; name="fi\0le"', PNG)), refused
    yield "a name of 1 MB", form(part(f'form-data; name="{"a" * 1_000_000}"', b"x")), refused
    yield "no boundary", form(FILE, kind="multipart/form-data"), refused
    yield "an empty boundary", form(FILE, kind="multipart/form-data; boundary="), refused
    yield "another boundary", form(FILE, kind="multipart/form-data; boundary=other"), refused
    yield "a boundary of 10 KB", form(FILE, kind=f"multipart/form-data; boundary={'a' * 10_000}"), refused
    yield "a boundary that is no ASCII", form(FILE, kind="multipart/form-data; boundary=\u00e4"), refused
    nested = part('form-data; name="file"', FILE, f"Content-Type: multipart/mixed; boundary={BOUNDARY}")
    yield "a form in a form", form(nested), refused | {201}
    yield "multipart/mixed", form(FILE, kind=f"multipart/mixed; boundary={BOUNDARY}"), refused
    yield "a file in base64", form(FILE.replace(b"image/png", b"image/png\r\nContent-Transfer-Encoding: base64")), {201}
    yield "no last boundary", request("POST", IMAGES, KIND, FILE), refused
    yield "no first boundary", request("POST", IMAGES, KIND, PNG + END), refused
    yield "a file as JSON", request("POST", IMAGES, {"Content-Type": "application/json"}, b'{"file": "x"}'), {415}
    yield "11 MB", upload("x.png", PNG + bytes(11 << 20)), {413}


FORMS = {name: (sent, statuses) for name, sent, statuses in _forms()}


@pytest.mark.parametrize("name", FORMS)
def test_an_invalid_form_is_refused(server: Served, name: str) -> None:
    before = kept(server)
    sent, statuses = FORMS[name]
    answer = server.send(sent)
    # A client that is refused while it still sends a megabyte may find the connection closed instead of the response.
    is_cut_off = len(sent) > 1 << 20 and answer.is_closed and not answer.raw
    assert is_cut_off or answer.statuses[0] in statuses, (answer.statuses, answer.body[:300])
    assert kept(server) == before + 2 * (answer.statuses == (201,))
    assert server.is_alive()


@pytest.mark.parametrize("declared", [100, 10**6])
def test_an_upload_with_a_wrong_length_is_not_stored(server: Served, declared: int) -> None:
    before = kept(server)
    body = FILE + END
    sent = request("POST", IMAGES, KIND, body).replace(
        f"Content-Length: {len(body)}".encode(), b"Content-Length: %d" % declared
    )
    answer = server.send(sent, cut=declared > len(body))
    assert all(status >= 400 for status in answer.statuses)
    assert kept(server) == before
    assert server.is_alive()
