"""The fingerprint of a request, by which two requests with one key are known to be the same."""

import hashlib
import json

from starlette.datastructures import UploadFile
from starlette.requests import Request

_CHUNK_BYTES = 256 * 1024
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def fingerprint(request: Request) -> str:
    """Return a hash of method, URL and body. A form is hashed by its parts: a repeated one has another boundary."""
    found = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\0".encode())
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _FORMS:
        found.update(await request.body())
        return found.hexdigest()
    for name, value in (await request.form()).multi_items():
        if not isinstance(value, UploadFile):
            found.update(json.dumps([name, value]).encode())
            continue
        found.update(json.dumps([name, value.filename, value.content_type]).encode())
        content = hashlib.sha256()
        while chunk := await value.read(_CHUNK_BYTES):
            content.update(chunk)
        await value.seek(0)
        found.update(content.digest())
    return found.hexdigest()
