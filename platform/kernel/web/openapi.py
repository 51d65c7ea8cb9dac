"""The OpenAPI document with the errors as they are: problem details instead of FastAPI's own validation errors."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from kernel.web.problems import MEDIA_TYPE, ProblemDetails, phrase_of

_SCHEMAS = "#/components/schemas/"
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
ANY_FAILURE: dict[int | str, dict[str, Any]] = {"default": {"description": "Any other failure"}}
"""The `responses=` of an application: FastAPI then adds no 422 with models of its own, which would take the place of a
module's models of the same name."""


def document_problems(schema: dict[str, Any]) -> dict[str, Any]:
    """Add problem details to every operation of an OpenAPI document, and return it.

    Every operation may fail in ways that no route declares (500, 503, 400 for a foreign host), hence `default`. What a
    module declares stays: its descriptions, its content, its references and its models, whatever they are called.
    Callbacks and webhooks stay, too: others serve those.
    """
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    content = {MEDIA_TYPE: {"schema": {"$ref": _add_problem_details(components)}}}
    for path in schema.get("paths", {}).values():
        for method in _METHODS & path.keys():
            _document(method, path[method], content)
    return schema


def _document(method: str, operation: dict[str, Any], content: Mapping[str, Any]) -> None:
    responses: dict[str, Any] = operation.setdefault("responses", {})
    named = [one.get("name", "") for one in operation.get("parameters", ())]  # none in a reference
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
    """Add our models under names that no other model of the document has, and return the reference to the first."""
    for number in count(1):
        prefix = {1: "", 2: "Kernel"}.get(number, f"Kernel{number}")
        model = ProblemDetails.model_json_schema(ref_template=f"{_SCHEMAS}{prefix}{{model}}")
        models = {prefix + name: one for name, one in (*model.pop("$defs", {}).items(), ("ProblemDetails", model))}
        if all(components.get(name, one) == one for name, one in models.items()):
            components |= models
            return f"{_SCHEMAS}{prefix}ProblemDetails"
    raise AssertionError  # there is always a next number
