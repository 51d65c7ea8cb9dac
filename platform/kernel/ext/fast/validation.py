"""Limit the validation errors of each value, in a tenth of the time in which pydantic lists them.

Pydantic creates a dictionary per error, which blocks the event loop for half a second for 100,000 errors. Writing them
as JSON takes a tenth of that, and the first ones are read back. `_type_adapter` is a private name of FastAPI;
`platform/tests/fast/test_validation.py` fails when it changes.
"""

import json
from collections.abc import Iterator
from typing import Any

from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from kernel.web.problems import MOST_ERRORS, TOO_MANY, too_many


def few(error: ValidationError) -> ValidationError:
    """Return the error, or one with its first MOST_ERRORS errors and a last one that states their number."""
    count = error.error_count()
    if count <= MOST_ERRORS:
        return error
    found = [
        InitErrorDetails(type=PydanticCustomError(one["type"], one["msg"]), loc=tuple(one["loc"]), input=None)
        for one in _first(error.json(include_url=False, include_input=False, include_context=False))
    ]
    message: Any = too_many(count)
    found.append(InitErrorDetails(type=PydanticCustomError(TOO_MANY, message), loc=(), input=None))
    return ValidationError.from_exception_data(error.title, found)


def bound_errors(route: Any) -> None:
    """Limit the errors of each value that a route and its dependencies read."""
    dependant, body_field = getattr(route, "dependant", None), getattr(route, "body_field", None)
    fields = list(_fields(dependant)) if dependant is not None else []
    for field in fields if body_field is None else (*fields, body_field):
        adapter: Any = field._type_adapter
        if not isinstance(adapter, _Bounded):
            bounded: Any = _Bounded(adapter)
            field._type_adapter = bounded


class _Bounded:
    """A TypeAdapter that limits the number of errors."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def validate_python(self, value: Any, **options: Any) -> Any:
        try:
            return self._adapter.validate_python(value, **options)
        except ValidationError as error:
            raise few(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


def _first(text: str) -> Iterator[Any]:
    """Yield the first elements of a JSON array without parsing the rest."""
    decoder, at = json.JSONDecoder(), 1
    for _ in range(MOST_ERRORS):
        found, at = decoder.raw_decode(text, at)
        yield found
        at += 1  # the comma


def _fields(dependant: Dependant) -> Iterator[ModelField]:
    for fields in (
        dependant.path_params,
        dependant.query_params,
        dependant.header_params,
        dependant.cookie_params,
        dependant.body_params,
    ):
        yield from fields
    for one in dependant.dependencies:
        yield from _fields(one)
