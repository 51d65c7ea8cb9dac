"""What Schemathesis cannot read in an OpenAPI document: how to make a picture and a cursor, and what belongs together."""

from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.modules.images.pictures import FORMATS, picture

# A cursor is what an answer of ours gave; the empty one begins.
schemathesis.openapi.format("cursor", st.just(""))
for name, media_type in FORMATS.items():
    schemathesis.openapi.media_type(media_type, st.just(picture(name)))


@schemathesis.hook
def before_load_schema(_context: Any, raw_schema: dict[str, Any]) -> None:
    """Link what is created to what can be done with it, so that the stateful phase meets things that are there."""
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
def filter_query(_context: Any, query: Any) -> bool:
    """What excludes each other is said in words only: OpenAPI has none for parameters that depend on another."""
    query = query or {}
    if query.get("cursor") is not None and query.get("offset"):
        return False
    first, last = query.get("date_from"), query.get("date_to")
    return not (isinstance(first, str) and isinstance(last, str) and first > last)
