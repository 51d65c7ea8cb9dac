"""The OpenAPI document of /internal, apart from the public one, for callers that do not use this kernel."""

import inspect
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from kernel.ext.openapi.document import document_problems
from kernel.ext.remote.wire import WireContract


def document(title: str, contracts: Iterable[tuple[str, WireContract]]) -> dict[str, Any]:
    """Return the document of these contracts, each with the name of its module."""
    methods = [(module, wire, one) for module, wire in contracts for one in wire.methods.values()]
    asked: list[Any] = [(f"{one.call}?", "validation", TypeAdapter(one.arguments)) for _, _, one in methods]
    answered: list[Any] = [(f"{one.call}!", "serialization", one.result) for _, _, one in methods]
    schemas, definitions = TypeAdapter.json_schemas([*asked, *answered], ref_template="#/components/schemas/{model}")
    paths: dict[str, Any] = {}
    for module, wire, one in methods:
        asks = {"application/json": {"schema": schemas[f"{one.call}?", "validation"]}}
        answers = {"application/json": {"schema": schemas[f"{one.call}!", "serialization"]}}
        paths[f"/internal/contracts/{module}/{one.name}"] = {
            "post": {
                "operationId": one.call,
                "tags": [wire.name],
                "description": inspect.getdoc(getattr(wire.contract, one.name)) or "",
                "requestBody": {"required": True, "content": asks},
                "responses": {
                    "200": {"description": "The result", "content": answers},
                    **{status: {"description": ""} for status in ("401", "422", "504")},
                },
            }
        }
    components = {
        "schemas": definitions.get("$defs", {}),
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
    }
    info = {"title": f"{title}: contracts", "version": "1"}
    return document_problems(
        {"openapi": "3.1.0", "info": info, "security": [{"token": []}], "paths": paths, "components": components}
    )
