"""Tell Schemathesis what an OpenAPI document does not contain: pictures, cursors, and exclusive parameters."""

import re
import uuid
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.modules.images.pictures import FORMATS, picture

KEY = re.compile(r"[!-~]{1,200}")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

# A cursor comes from a response of this application; the empty one begins.
schemathesis.openapi.format("cursor", st.just(""))
for name, media_type in FORMATS.items():
    schemathesis.openapi.media_type(media_type, st.just(picture(name)))


@schemathesis.hook
def before_load_schema(_context: Any, raw_schema: dict[str, Any]) -> None:
    """Link each creating operation to operations on its result, so that the stateful phase uses existing objects."""
    paths = raw_schema["paths"]
    for path, operations in paths.items():
        created = operations.get("post", {}).get("responses", {}).get("201")
        for below, others in paths.items():
            if created is not None and below.startswith(f"{path}/{{"):
                name = below.removeprefix(f"{path}/{{").partition("}")[0]
                for method, operation in others.items():
                    created.setdefault("links", {})[f"{method}{below}"] = {
                        "operationId": operation["operationId"],
                        "parameters": {f"path.{name}": "$response.body#/id"},
                    }


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Skip combinations that are invalid although each part is valid, which OpenAPI cannot express."""
    query, body = case.query or {}, case.body
    # Schemathesis tests requests without a token; after it edits the headers, the token is added again.
    has_token = getattr(case.meta.phase.data, "parameter", None) != "Authorization"
    if has_token and KEY.fullmatch(str((case.headers or {}).get("Idempotency-Key", ""))):
        case.headers["Idempotency-Key"] = uuid.uuid4().hex  # A key is for one request.
    offset = str(query.get("offset", ""))
    if isinstance(query.get("cursor"), str) and offset.isdecimal() and int(offset) <= 1_000_000:
        del query["offset"]
    first, last = query.get("date_from"), query.get("date_to")
    if all(isinstance(day, str) and DAY.fullmatch(day) for day in (first, last)) and first > last:
        del query["date_to"]
    if isinstance(body, dict) and type(body.get("image_id")) in {int, float} and 0 < body["image_id"] < 2**53:
        body["image_id"] = None
    # The operation needs the id of an event's picture, and some events have none.
    if (case.path_parameters or {}).get("image_id", 1) is None:
        case.path_parameters["image_id"] = 1
    # A form turns other types into text or omits them, so only a text that is too long is as invalid as intended.
    is_form = case.media_type == "multipart/form-data" and isinstance(body, dict)
    # An example has a caption and any bytes as the file.
    if is_form and case.meta.phase.name == "examples" and "file" in body:
        body["file"] = picture()
    if is_form and not isinstance(body.get("caption", ""), str):
        body["caption"] = "x" * 501
