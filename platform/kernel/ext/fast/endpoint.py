"""Compute the order of a route's dependencies once, instead of for every request.

FastAPI walks the tree of dependencies for each request and inspects each function again. Here the tree is walked once.
FastAPI's own functions still read and serialize parameters, bodies and answers. A route that uses other features is not
compiled, and a request that needs other features goes through FastAPI itself.
`platform/tests/fast/test_endpoint.py` compares both ways, route by route.

Names with a leading underscore belong to FastAPI. Its version is locked, and that test fails when they change.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField, Undefined, get_cached_model_fields
from fastapi._compat.shared import field_annotation_is_sequence
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import FastAPIError, RequestValidationError
from fastapi.params import Form, Param, ParamTypes, Query
from fastapi.routing import APIRoute, serialize_response
from fastapi.telemetry._api import _route_selected
from fastapi.utils import is_body_allowed_for_status_code
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from kernel.web.context import get_db, open_session

_JSON = (b"content-type", b"application/json")
# The result of a dependency that did not run, because its own dependencies or parameters are invalid.
_INVALID = object()

Arguments = dict[str, Any]
Read = Callable[[Request, Arguments, list[Any]], None]
"""Adds arguments that a request gives, and the errors in them."""


class NotCompiled(Exception):
    """The route uses a feature that only FastAPI handles."""


def compile_endpoint(route: Any) -> "Endpoint | None":
    """Return the compiled handler of a route; None if the route uses a feature that only FastAPI handles."""
    if type(route.original_route) is not APIRoute:  # A subclass may override the handling.
        return None
    try:
        return Endpoint(route)
    except NotCompiled:
        return None


class Endpoint:
    """Pure ASGI for one route. Takes `scope["path_params"]`; for a body only plain JSON (see `takes`)."""

    def __init__(self, route: Any) -> None:
        """Compile `route`, FastAPI's own description after inclusion. Raises NotCompiled."""
        self._route = route
        self._reads_body = route.body_field is not None
        is_form = self._reads_body and isinstance(route.body_field.field_info, Form)
        if is_form or route.is_sse_stream or route.is_json_stream or route.max_body_size is not None:
            raise NotCompiled
        self._embeds_body = route._embed_body_fields
        self._dependencies: list[_Call] = []
        self._handler = self._put_in_order(route.dependant, {})
        if self._handler.kind != "coroutine":
            raise NotCompiled
        self._has_managers = any(call.kind == "manager" for call in self._dependencies)
        self._has_response = any(call.response for call in (self._handler, *self._dependencies))
        # None: the default of the response class; a RedirectResponse answers 307.
        self._status: int | None = route.status_code or None
        is_default = isinstance(route.response_class, DefaultPlaceholder)
        self._response_class: type[Response] = route.response_class.value if is_default else route.response_class
        # FastAPI's own condition for serializing straight to bytes.
        self._dumps_json = route.response_field is not None and is_default
        self._serialization = {
            name: getattr(route, f"response_model_{name}")
            for name in ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")
        } | {"field": route.response_field, "dump_json": self._dumps_json}

    def takes(self, scope: Scope, path_values: Mapping[str, str]) -> bool:
        """Return whether the body, if one is read, has the media type of JSON; FastAPI handles other types.

        Write into the scope what FastAPI would write.
        """
        if self._reads_body and _JSON not in scope["headers"]:
            return False
        route, convert = self._route, self._route.param_convertors
        values = {name: convert[name].convert(value) for name, value in path_values.items()}
        scope["path_params"] = {**scope.get("path_params", {}), **values}
        scope["endpoint"] = route.endpoint
        scope["route"] = route.original_route
        if "fastapi.telemetry" in scope:
            _route_selected(scope=scope, path=route.path_format)
        return True

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
        await response(scope, receive, send)  # After the commit.

    async def _respond(self, request: Request, stack: AsyncExitStack | None) -> Response:
        body = await _json_of(request) if self._reads_body else Undefined
        results: list[Any] = []
        errors: list[Any] = []
        # The response that a handler can request. FastAPI reads a status of None as "not set".
        shared = _response(b"", None) if self._has_response else None
        for call in self._dependencies:
            arguments = await call.arguments(request, shared, results, body, errors)
            if arguments is None:
                results.append(_INVALID)
            elif call.kind == "coroutine":
                results.append(await call.function(**arguments))
            elif stack is not None and call.kind == "manager":
                results.append(await stack.enter_async_context(call.function(**arguments)))
            else:
                results.append(await run_in_threadpool(call.function, **arguments))
        arguments = await self._handler.arguments(request, shared, results, body, errors)
        if arguments is None or errors:
            raise RequestValidationError(errors, body=None if body is Undefined else body)
        return await self._answer(await self._handler.function(**arguments), shared)

    async def _answer(self, result: Any, shared: Response | None) -> Response:
        if isinstance(result, Response):
            return result
        status = (shared.status_code if shared else None) or self._status
        content = await serialize_response(response_content=result, **self._serialization)
        is_allowed = is_body_allowed_for_status_code(status)
        if self._dumps_json and is_allowed:
            response = _response(content, status or 200)
            response.raw_headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
        elif self._dumps_json:
            response = Response(content, status or 200, media_type="application/json")
        else:
            made = self._response_class
            response = made(content) if status is None else made(content, status_code=status)
            is_allowed = is_body_allowed_for_status_code(response.status_code)
        if not is_allowed:
            response.body = b""
        if shared is not None:
            response.raw_headers.extend(shared.raw_headers)
        return response

    def _put_in_order(self, dependant: Dependant, seen: dict[Any, int]) -> "_Call":
        """Append the call of `dependant` behind its own dependencies, unless the list contains them."""
        if dependant.security_scopes_param_name or dependant.own_oauth_scopes or dependant.parent_oauth_scopes:
            raise NotCompiled
        if dependant.background_tasks_param_name or dependant.websocket_param_name or dependant.concurrency:
            raise NotCompiled
        results = []
        for needed in dependant.dependencies:
            key = models._get_cache_key(dependant=needed)
            place = seen.get(key) if needed.use_cache else None
            if place is None:
                call = self._put_in_order(needed, seen)
                place = len(self._dependencies)
                self._dependencies.append(call)
                seen.setdefault(key, place)
            if needed.name is not None:
                results.append((needed.name, place))
        requests = (dependant.request_param_name, dependant.http_connection_param_name)
        function, kind = _callable(dependant)
        return _Call(
            function=function,
            kind=kind,
            results=tuple(results),
            reads=tuple(_reads(dependant)),
            body=dependant.body_params,
            embeds_body=self._embeds_body,
            request=tuple(name for name in requests if name is not None),
            response=dependant.response_param_name,
        )


@dataclass(frozen=True, slots=True)
class _Call:
    """A dependency or the handler: the function, and the sources of its arguments."""

    function: Callable[..., Any]
    kind: str
    results: Sequence[tuple[str, int]]
    reads: Sequence[Read]
    body: list[ModelField]
    embeds_body: bool
    request: Sequence[str]
    response: str | None

    async def arguments(
        self, request: Request, response: Response | None, results: list[Any], body: Any, errors: list[Any]
    ) -> Arguments | None:
        """Return the arguments, or None if one of them or of their sources is invalid."""
        known = len(errors)
        arguments = {name: results[place] for name, place in self.results}
        for read in self.reads:
            read(request, arguments, errors)
        if self.body:
            values, faults = await utils.request_body_to_args(self.body, body, embed_body_fields=self.embeds_body)
            arguments.update(values)
            errors.extend(faults)
        for name in self.request:
            arguments[name] = request
        if self.response is not None:
            arguments[self.response] = response
        if len(errors) > known or any(results[place] is _INVALID for _, place in self.results):
            return None
        return arguments


def _callable(dependant: Dependant) -> tuple[Callable[..., Any], str]:
    call = dependant.call
    assert call is not None  # noqa: S101  # FastAPI's own types leave it open
    if models._is_async_gen_callable(call):
        if models._get_computed_scope(dependant=dependant) != "function":
            raise NotCompiled  # It ends after the response was sent.
        # The kernel's own dependency does the same without a generator around it.
        return open_session if call is get_db else asynccontextmanager(call), "manager"
    if models._is_gen_callable(call):
        raise NotCompiled
    return call, "coroutine" if models._is_coroutine_callable(call) else "thread"


def _reads(dependant: Dependant) -> Iterator[Read]:
    """Yield how to read each parameter. Most are one value under one name, for which FastAPI's way is long."""
    for fields, received in (
        (dependant.path_params, attrgetter("path_params")),
        (dependant.query_params, attrgetter("query_params")),
        (dependant.header_params, attrgetter("headers")),
        (dependant.cookie_params, attrgetter("cookies")),
    ):
        for field in fields:
            yield _value(field) or _model(field) or _by_fastapi(field, received)


def _by_fastapi(field: ModelField, received: Callable[[Request], Any]) -> Read:
    def read(request: Request, arguments: Arguments, errors: list[Any]) -> None:
        values, faults = utils.request_params_to_args([field], received(request))
        arguments.update(values)
        errors.extend(faults)

    return read


def _value(field: ModelField) -> Read | None:
    """Return the reader of a path or header parameter that is one value under one name."""
    info, name = field.field_info, _only_name(field)
    if name is None or not isinstance(info, Param) or info.in_ not in {ParamTypes.path, ParamTypes.header}:
        return None
    if utils._get_param_model(field) is not None:
        return None
    in_path, header, loc = info.in_ is ParamTypes.path, name.lower().encode("latin-1"), (info.in_.value, name)
    is_none_without = not info.is_required() and field.default is None and not info.validate_default

    def read(request: Request, arguments: Arguments, errors: list[Any]) -> None:
        value: Any = Undefined
        if in_path:
            value = request.scope["path_params"].get(name, Undefined)
        else:
            for sent, content in request.scope["headers"]:
                if sent == header:
                    value = content.decode("latin-1")
                    break
        if value is Undefined and is_none_without:
            arguments[field.name] = None
        else:
            _validate(field, value, loc, arguments, errors)

    return read


def _model(field: ModelField) -> Read | None:
    """Return the reader of a model of query parameters, each one value under one name."""
    info = field.field_info
    model = utils._get_param_model(field)
    # FastAPI handles an optional model, and models of headers and cookies.
    if model is None:
        return None
    names = {_only_name(one) for one in get_cached_model_fields(model)}
    if None in names or not isinstance(info, Query) or info.annotation is not model:
        return None
    with_others = _by_fastapi(field, attrgetter("query_params"))

    def read(request: Request, arguments: Arguments, errors: list[Any]) -> None:
        received = request.query_params
        if names.issuperset(received):
            _validate(field, dict(received), ("query",), arguments, errors)
        else:
            with_others(request, arguments, errors)

    return read


def _validate(field: ModelField, value: Any, loc: tuple[str, ...], arguments: Arguments, errors: list[Any]) -> None:
    arguments[field.name], faults = utils._validate_value_with_model_field(
        field=field, value=value, values=arguments, loc=loc
    )
    errors.extend(faults)


def _only_name(field: ModelField) -> str | None:
    """Return the name of a parameter that is one value under one name; None for others."""
    aliases = utils._get_param_aliases(field)
    is_one = len(aliases) == 1 and aliases[0][0] == aliases[0][1]
    is_value = not field_annotation_is_sequence(field.field_info.annotation) and not utils._is_json_field(field)
    return aliases[0][1] if is_one and is_value else None


def _response(body: bytes, status: int | None) -> Response:
    """Return a response without headers, because its constructor would encode some character by character."""
    response = Response.__new__(Response)
    response.status_code, response.body, response.background = status, body, None  # type: ignore[assignment]  # see shared
    response.raw_headers = []
    return response


async def _json_of(request: Request) -> Any:
    """Return the parsed body. Raises FastAPI's own errors for invalid JSON."""
    try:
        return await request.json() if await request.body() else Undefined
    except json.JSONDecodeError as error:
        place = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error"}
        raise RequestValidationError([place | {"input": {}, "ctx": {"error": error.msg}}], body=error.doc) from error
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(400, "There was an error parsing the body") from error
