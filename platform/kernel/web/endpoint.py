"""A route's handler with its dependencies in the order in which they run, worked out once instead of at every request.

FastAPI walks the tree of dependencies for each request and asks of each function again what it is. Here the walk is
made once; what parameters, bodies and answers mean stays FastAPI's: the same functions read and serialize them. A
route that uses more than is understood here is not compiled, and neither is a request that needs more: both go through
FastAPI itself. `tests/kernel/test_endpoint.py` compares both ways, route by route.

The names with a leading underscore are FastAPI's own; its version is locked, and that test fails when they change.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField, Undefined, get_cached_model_fields
from fastapi._compat.shared import field_annotation_is_sequence
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import (
    Dependant,
    _get_cache_key,
    _get_computed_scope,
    _is_async_gen_callable,
    _is_coroutine_callable,
    _is_gen_callable,
)
from fastapi.dependencies.utils import (
    _get_param_aliases,
    _get_param_model,
    _is_json_field,
    _validate_value_with_model_field,
    request_body_to_args,
    request_params_to_args,
)
from fastapi.exceptions import FastAPIError, RequestValidationError
from fastapi.params import Form, Param, ParamTypes
from fastapi.routing import serialize_response
from fastapi.utils import is_body_allowed_for_status_code
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from kernel.web.session import get_db, open_session

_JSON = b"application/json"
# In a dependency's place if it did not run, because what it needs is not valid.
_INVALID = object()


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Where a function's arguments come from."""

    results: tuple[tuple[str, int], ...]
    plain: Sequence["_Plain"]
    plain_models: Sequence["_PlainModel"]
    # What FastAPI itself reads: lists, models, all that is more than one value under one name.
    path: Sequence[ModelField]
    query: Sequence[ModelField]
    headers: Sequence[ModelField]
    cookies: Sequence[ModelField]
    body: list[ModelField]
    embeds_body: bool
    request: tuple[str, ...]
    response: str | None


@dataclass(frozen=True, slots=True)
class _Plain:
    """A parameter of the path or a header that is one value under one name, as nearly all are."""

    field: ModelField
    in_path: bool
    key: str | bytes
    loc: tuple[str, str]
    # Left out it is None, and nobody wants that validated.
    is_none_without: bool

    def read(self, scope: Scope) -> Any:
        """The value as it was sent, or Undefined."""
        if self.in_path:
            return scope["path_params"].get(self.key, Undefined)
        for name, value in scope["headers"]:
            if name == self.key:
                return value.decode("latin-1")
        return Undefined


@dataclass(frozen=True, slots=True)
class _PlainModel:
    """A model of query parameters, each of which is one value under one name."""

    field: ModelField
    names: frozenset[str]

    def reads(self, received: QueryParams) -> bool:
        """Whether there is nothing else; what becomes of that is FastAPI's to say."""
        return self.names.issuperset(received)


@dataclass(frozen=True, slots=True)
class _Step:
    """One dependency: what it calls, with what."""

    call: Callable[..., Any]
    kind: str
    inputs: _Inputs


class NotCompiled(Exception):
    """The route uses something that is left to FastAPI."""


class Endpoint:
    """Pure ASGI for one route. Takes `scope["path_params"]`; for a body only plain JSON (see `takes`)."""

    def __init__(self, route: Any) -> None:
        """`route` is FastAPI's own description of it, after inclusion. Raises NotCompiled."""
        self._route = route
        self._steps: list[_Step] = []
        self._reads_body = route.body_field is not None
        is_form = self._reads_body and isinstance(route.body_field.field_info, Form)
        if is_form or route.is_sse_stream or route.is_json_stream or route.max_body_size is not None:
            raise NotCompiled
        if not _is_coroutine_callable(route.dependant.call):
            raise NotCompiled
        self._inputs = self._flatten(route.dependant, {})
        self._call: Callable[..., Any] = route.dependant.call
        self._has_managers = any(step.kind == "manager" for step in self._steps)
        self._has_response = any(one.response for one in (self._inputs, *(step.inputs for step in self._steps)))
        is_default = isinstance(route.response_class, DefaultPlaceholder)
        self._response_class: type[Response] = route.response_class.value if is_default else route.response_class
        # FastAPI's own condition: straight to bytes, and no other response class.
        self._dumps_json = route.response_field is not None and is_default
        self._serialization = {
            "field": route.response_field,
            "include": route.response_model_include,
            "exclude": route.response_model_exclude,
            "by_alias": route.response_model_by_alias,
            "exclude_unset": route.response_model_exclude_unset,
            "exclude_defaults": route.response_model_exclude_defaults,
            "exclude_none": route.response_model_exclude_none,
            "dump_json": self._dumps_json,
        }

    def takes(self, scope: Scope) -> bool:
        """Whether the body, if one is read, is labelled as plain JSON; other labels are FastAPI's to judge."""
        return not self._reads_body or (b"content-type", _JSON) in scope["headers"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response: Response | None = None
        if self._has_managers:
            async with AsyncExitStack() as stack:
                response = await self._respond(request, stack)
        else:
            response = await self._respond(request, None)
        if response is None:
            raise FastAPIError("A dependency has swallowed an exception behind its yield. Raise it again there.")
        await response(scope, receive, send)  # after the commit

    async def _respond(self, request: Request, stack: AsyncExitStack | None) -> Response:
        body = await _json_of(request) if self._reads_body else Undefined
        results: list[Any] = []
        errors: list[Any] = []
        shared = _answer_to_fill() if self._has_response else None
        for step in self._steps:
            arguments = await _arguments(step.inputs, request, shared, results, body, errors)
            if arguments is None:
                results.append(_INVALID)
            elif step.kind == "coroutine":
                results.append(await step.call(**arguments))
            elif stack is not None:
                results.append(await stack.enter_async_context(step.call(**arguments)))
            else:
                results.append(await run_in_threadpool(step.call, **arguments))
        arguments = await _arguments(self._inputs, request, shared, results, body, errors)
        if arguments is None or errors:
            raise RequestValidationError(errors, body=None if body is Undefined else body)
        return await self._answer(await self._call(**arguments), shared)

    async def _answer(self, result: Any, shared: Response | None) -> Response:
        if isinstance(result, Response):
            return result
        status: int = (shared.status_code if shared else None) or self._route.status_code or 200
        content = await serialize_response(response_content=result, **self._serialization)
        if self._dumps_json:
            response = Response(content, status, media_type="application/json")
        else:
            response = self._response_class(content, status)
        if not is_body_allowed_for_status_code(status):
            response.body = b""
        if shared is not None:
            response.headers.raw.extend(shared.headers.raw)
        return response

    def _flatten(self, dependant: Dependant, seen: dict[Any, int]) -> _Inputs:
        """What `dependant` needs, after a step for each of its own dependencies that is not among the steps yet."""
        if dependant.security_scopes_param_name or dependant.own_oauth_scopes or dependant.parent_oauth_scopes:
            raise NotCompiled
        if dependant.background_tasks_param_name or dependant.websocket_param_name or dependant.concurrency:
            raise NotCompiled
        results = []
        for needed in dependant.dependencies:
            key = _get_cache_key(dependant=needed)
            place = seen.get(key) if needed.use_cache else None
            if place is None:
                inputs = self._flatten(needed, seen)
                place = len(self._steps)
                self._steps.append(_step(needed, inputs))
                seen.setdefault(key, place)
            if needed.name is not None:
                results.append((needed.name, place))
        path, path_rest = _sorted_out(dependant.path_params)
        headers, headers_rest = _sorted_out(dependant.header_params)
        models, query_rest = _models_among(dependant.query_params)
        requests = (dependant.request_param_name, dependant.http_connection_param_name)
        return _Inputs(
            results=tuple(results),
            plain=[*path, *headers],
            path=path_rest,
            plain_models=models,
            query=query_rest,
            headers=headers_rest,
            cookies=dependant.cookie_params,
            body=dependant.body_params,
            embeds_body=self._route._embed_body_fields,
            request=tuple(name for name in requests if name is not None),
            response=dependant.response_param_name,
        )


def _answer_to_fill() -> Response:
    """What a handler that asks for the response gets: no body, no headers, no status yet."""
    response = Response.__new__(Response)
    response.background, response.body, response.raw_headers = None, b"", []
    response.status_code = None  # type: ignore[assignment]  # FastAPI's sign that no handler set one
    return response


def _step(dependant: Dependant, inputs: _Inputs) -> _Step:
    call = dependant.call
    assert call is not None  # noqa: S101  # FastAPI's own types leave it open
    if call is get_db:
        return _Step(open_session, "manager", inputs)  # the same without a generator around it
    if _is_async_gen_callable(call):
        if _get_computed_scope(dependant=dependant) != "function":
            raise NotCompiled  # it ends after the answer was sent
        return _Step(asynccontextmanager(call), "manager", inputs)
    if _is_gen_callable(call):
        raise NotCompiled
    return _Step(call, "coroutine" if _is_coroutine_callable(call) else "thread", inputs)


def _sorted_out(fields: Sequence[ModelField]) -> tuple[list[_Plain], list[ModelField]]:
    """Those that are plain, and the rest."""
    plain, rest = [], []
    for field in fields:
        info, name = field.field_info, _only_name(field)
        if isinstance(info, Param) and name is not None and _get_param_model(field) is None:
            in_path = info.in_ is ParamTypes.path
            is_none = not info.is_required() and field.default is None and not info.validate_default
            key = name if in_path else name.lower().encode("latin-1")
            plain.append(_Plain(field, in_path, key, (info.in_.value, name), is_none))
        else:
            rest.append(field)
    return plain, rest


def _models_among(fields: Sequence[ModelField]) -> tuple[list[_PlainModel], list[ModelField]]:
    plain, rest = [], []
    for field in fields:
        model = _get_param_model(field)
        names = [_only_name(one) for one in get_cached_model_fields(model)] if model is not None else [None]
        if None in names or field.field_info.annotation is not model:
            rest.append(field)
        else:
            plain.append(_PlainModel(field, frozenset(name for name in names if name is not None)))
    return plain, rest


def _only_name(field: ModelField) -> str | None:
    """The name of a parameter that is one value under one name; None for others."""
    aliases = _get_param_aliases(field)
    is_one = len(aliases) == 1 and aliases[0][0] == aliases[0][1]
    is_value = not field_annotation_is_sequence(field.field_info.annotation) and not _is_json_field(field)
    return aliases[0][1] if is_one and is_value else None


async def _arguments(
    inputs: _Inputs, request: Request, response: Response | None, results: list[Any], body: Any, errors: list[Any]
) -> dict[str, Any] | None:
    """The arguments of one function; None if they, or what they are made from, are not valid."""
    known = len(errors)
    arguments = {name: results[place] for name, place in inputs.results}
    _read_parameters(arguments, errors, inputs, request)
    if inputs.body:
        values, faults = await request_body_to_args(inputs.body, body, embed_body_fields=inputs.embeds_body)
        arguments.update(values)
        errors.extend(faults)
    for name in inputs.request:
        arguments[name] = request
    if inputs.response is not None:
        arguments[inputs.response] = response
    if len(errors) > known or any(results[place] is _INVALID for _, place in inputs.results):
        return None
    return arguments


def _read_parameters(arguments: dict[str, Any], errors: list[Any], inputs: _Inputs, request: Request) -> None:
    for parameter in inputs.plain:
        value = parameter.read(request.scope)
        if value is Undefined and parameter.is_none_without:
            arguments[parameter.field.name] = None
            continue
        arguments[parameter.field.name], faults = _validate_value_with_model_field(
            field=parameter.field, value=value, values=arguments, loc=parameter.loc
        )
        errors.extend(faults)
    for model in inputs.plain_models:
        received = request.query_params
        if model.reads(received):
            arguments[model.field.name], faults = _validate_value_with_model_field(
                field=model.field, value=dict(received), values={}, loc=("query",)
            )
            errors.extend(faults)
        else:
            _read(arguments, errors, [model.field], received)
    if inputs.path:
        _read(arguments, errors, inputs.path, request.path_params)
    if inputs.query:
        _read(arguments, errors, inputs.query, request.query_params)
    if inputs.headers:
        _read(arguments, errors, inputs.headers, request.headers)
    if inputs.cookies:
        _read(arguments, errors, inputs.cookies, request.cookies)


def _read(arguments: dict[str, Any], errors: list[Any], fields: Sequence[ModelField], received: Any) -> None:
    values, faults = request_params_to_args(fields, received)
    arguments.update(values)
    errors.extend(faults)


async def _json_of(request: Request) -> Any:
    """The body, with FastAPI's own errors for what is no JSON."""
    try:
        return await request.json() if await request.body() else Undefined
    except json.JSONDecodeError as error:
        detail = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise RequestValidationError([detail], body=error.doc) from error
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(400, "There was an error parsing the body") from error
