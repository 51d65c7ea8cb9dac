"""Multipart bodies, byte by byte."""

from tests.security.serving import request

BOUNDARY = "boundary0boundary"
IMAGES = "/api/v1/images"


def part(disposition: str, data: bytes = b"", *lines: str) -> bytes:
    """Return one part of a form."""
    head = "\r\n".join((f"Content-Disposition: {disposition}", *lines)).encode("utf-8", "surrogateescape")
    return f"--{BOUNDARY}\r\n".encode() + head + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> bytes:
    """Return a request with these parts."""
    return request("POST", IMAGES, {"Content-Type": kind}, b"".join(parts) + f"--{BOUNDARY}--\r\n".encode())


def upload(filename: str, data: bytes, kind: str = "image/png") -> bytes:
    """Return a picture as a part with a file name and a declared type."""
    return form(part(f'form-data; name="file"; filename="{filename}"', data, f"Content-Type: {kind}"))
