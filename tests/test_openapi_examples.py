"""The sample request bodies that documentation tools make from the OpenAPI document are readable and accepted."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import httpx2
import pytest
from pydantic import Field, StringConstraints

from kernel.application import Application
from kernel.ext.fields import NoNul, RequestBody

_READABLE = re.compile(r"[\w .,:'@/-]+")


def sample(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Return the value that Swagger UI shows for a schema: its example, its default, or one made from its type."""
    schema = resolved(document, schema)
    given = [*schema.get("examples", ()), *(schema[name] for name in ("default", "const") if name in schema)]
    if shown := [*given, *schema.get("enum", ())]:
        return shown[0]
    if schema["type"] == "object":
        return {name: sample(document, one) for name, one in schema.get("properties", {}).items()}
    if schema["type"] == "array":
        return [sample(document, schema["items"])]
    assert "pattern" not in schema, f"a text that is made from a pattern cannot be read: {schema}"
    number = schema.get("minimum", 0)
    return {"string": schema.get("format", "string"), "integer": number, "number": number, "boolean": True}[
        schema["type"]
    ]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow references and take the first alternative, unless an example is given."""
    while not {"examples", "default", "type"} & schema.keys() and {"$ref", "anyOf", "oneOf"} & schema.keys():
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        else:
            schema = (schema.get("anyOf") or schema["oneOf"])[0]
    return schema


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Return the method, the path, the media type and the sample of every request body."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield method, path, media_type, sample(document, content["schema"])


def texts(value: Any) -> Iterator[str]:
    """Return every text in a value."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(part)


async def test_every_sample_of_a_request_can_be_read(application: Application) -> None:
    for method, path, _, body in bodies(application.openapi()):
        assert isinstance(body, dict)
        for text in texts(body):
            assert text == "" or _READABLE.fullmatch(text), f"{method} {path}: {text!r}"


async def test_every_sample_that_creates_something_is_accepted(
    application: Application, client: httpx2.AsyncClient
) -> None:
    """Except for uploads, whose file no document can contain."""
    for method, path, media_type, body in bodies(application.openapi()):
        if method == "post" and media_type == "application/json" and "{" not in path:
            answer = await client.post(path, json=body)
            assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (Annotated[str, StringConstraints(max_length=9), NoNul], "text"),
        (Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), NoNul], "text"),
        (Annotated[str, Field(examples=["Summer concert"]), NoNul], "Summer concert"),
        (Annotated[str, NoNul] | None, "text"),
    ],
)
def test_text_without_nul_has_a_readable_example(kind: Any, shown: str) -> None:
    body = type("Body", (RequestBody,), {"__annotations__": {"name": kind}, "__module__": __name__})
    schema = body.model_json_schema()  # type: ignore[attr-defined]  # a model that is made here
    assert sample(schema, schema) == {"name": shown}
