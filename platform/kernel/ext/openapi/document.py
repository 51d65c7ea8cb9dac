"""Describe errors in the OpenAPI document: problem details instead of FastAPI's validation errors."""

import re
from collections.abc import Mapping
from itertools import count
from typing import Any

from fastapi import APIRouter

from kernel.auth.policy import policies
from kernel.web.problems import MEDIA_TYPE, ProblemDetails, phrase_of

_SCHEMAS = "#/components/schemas/"
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
ANY_FAILURE: dict[int | str, dict[str, Any]] = {"default": {"description": "Any other failure"}}
"""The `responses=` of an application: FastAPI then adds no 422 with its own models, which would replace models of a
module that have the same names."""


def document_problems(schema: dict[str, Any]) -> dict[str, Any]:
    """Add problem details to every operation of an OpenAPI document, and return it.

    `default` covers the errors that no route declares (500, 503, 400 for a foreign host). Everything that a module
    declares is kept, and so are callbacks and webhooks, which other servers answer.
    """
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    content = {MEDIA_TYPE: {"schema": {"$ref": _add_problem_details(components)}}}
    for path in schema.get("paths", {}).values():
        for method in _METHODS & path.keys():
            _document(method, path[method], content)
    return schema


def _document(method: str, operation: dict[str, Any], content: Mapping[str, Any]) -> None:
    responses: dict[str, Any] = operation.setdefault("responses", {})
    named = [one.get("name", "") for one in operation.get("parameters", ())]  # A $ref has no name.
    expected = ["304"] if method == "get" and "if-none-match" in named else []
    expected += ["401", "403"] if "security" in operation else []
    expected += ["413", "415"] if "requestBody" in operation else []
    expected += ["422"] if named or "requestBody" in operation else []
    for status in expected:
        responses.setdefault(status, {"description": phrase_of(int(status))})
    responses.setdefault("default", dict(ANY_FAILURE["default"]))
    for status, response in responses.items():
        if not isinstance(response, dict) or "$ref" in response or not (status == "default" or status[0] in "45"):
            continue
        response["content"] = {**response.get("content", {}), **content}


def _add_problem_details(components: dict[str, Any]) -> str:
    """Add the models of problem details under unused names, and return the reference to ProblemDetails."""
    for number in count(1):
        prefix = {1: "", 2: "Kernel"}.get(number, f"Kernel{number}")
        model = ProblemDetails.model_json_schema(ref_template=f"{_SCHEMAS}{prefix}{{model}}")
        models = {prefix + name: one for name, one in (*model.pop("$defs", {}).items(), ("ProblemDetails", model))}
        if all(components.get(name, one) == one for name, one in models.items()):
            components |= models
            return f"{_SCHEMAS}{prefix}ProblemDetails"
    raise AssertionError  # count() never ends.


def document_scopes(schema: dict[str, Any], prefix: str, router: APIRouter) -> None:
    """Add the scopes of each operation to an OpenAPI document. FastAPI does that for OAuth2 schemes only."""
    for one in policies(router):
        operations = schema["paths"].get(prefix + re.sub(r":\w+}", "}", one.path), {})
        for method in one.methods if one.scopes is not None else ():
            if method.lower() in operations:
                operations[method.lower()]["security"] = [{"bearer": list(one.scopes or ())}]
