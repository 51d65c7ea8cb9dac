"""The dependency `cached`: `dependencies=[cached(60, tags=["event:{event_id}"])]` on a GET route."""

from collections.abc import Iterator, Sequence, Set
from functools import partial
from string import Formatter
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from kernel.auth.policy import Requires, calls_of, dependant_of, name_of
from kernel.auth.principal import principal_of
from kernel.ext.cache.response_cache import TAG_SECONDS, ResponseCache
from kernel.ext.recorder import RecordedResponse, Replay, ResponseRecorder
from kernel.ext.store.store import StoreUnavailable
from kernel.modules.manifest import module_context
from kernel.web.conditional import matches
from kernel.web.context import request_context
from kernel.web.routes import methods_of, routes_of

# A larger response is not cached.
_MAX_RESPONSE_BYTES = 1024 * 1024
# These headers are part of every key. A response that varies by a header outside its key is not cached.
_KEYED = frozenset({b"accept", b"accept-language", b"host"})
# The cache itself evaluates these headers.
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since", b"if-range"})


def cached(seconds: float, *, shared: bool = False, tags: Sequence[str] = ()) -> Any:
    """Return a dependency that caches the 200 responses of a GET route for each caller.

    Put it behind the policy: dependencies run in order, and those behind it do not run for a cached response. With
    `shared` all callers get the same response, which is for routes without a principal only. `tags` invalidate a
    response before its time (see `Cache`); they may contain values of the path: `event:{event_id}`.
    """
    return Depends(Cached(seconds, tags, shared=shared))


class Cached:
    """A dependency: see `cached`."""

    def __init__(self, seconds: float, tags: Sequence[str], *, shared: bool) -> None:
        if not 0 < seconds <= TAG_SECONDS:
            raise ValueError(f"cached() keeps a response for up to {TAG_SECONDS:.0f} seconds, not for {seconds}")
        self.is_shared = shared
        self._seconds = seconds
        self._tags = tuple(tags)
        # The values of the path that the tags contain. Raises ValueError for a tag that is not a valid template.
        fields = (name for tag in tags for _, name, _, _ in Formatter().parse(tag))
        self.path_names = frozenset(name for name in fields if name is not None)
        # The headers that a route's parameters read, by the route's handler.
        self.read_headers: dict[object, frozenset[bytes]] = {}
        scope = "public" if shared else "private"
        # A tag cannot invalidate the copies of browsers and proxies: with tags they revalidate each time, by ETag.
        self._control = f"{scope}, no-cache" if tags else f"{scope}, max-age={int(seconds)}"

    async def __call__(self, request: Request, response: Response) -> None:
        """Send the cached response, or record the response to this request. Raises Replay, or 304."""
        response.headers["Cache-Control"] = self._control
        headers = request.headers
        if request.method != "GET" or "range" in headers:
            return
        cache: ResponseCache = request_context(request).kernel.get(ResponseCache)
        module = module_context(request).name
        scope = request.scope  # the raw parts: `request.url` is the same for some requests that differ
        url = (scope["scheme"], scope["path"], repr(scope.get("raw_path")), repr(scope["query_string"]))
        keyed = _KEYED | self.read_headers.get(request.scope["endpoint"], frozenset())
        if not self.is_shared:
            keyed |= {b"cookie"}
        key = cache.key(module, *url, *await self._caller(request, keyed))
        values = _path_values(request) if self.path_names else {}
        tags = [f"{module}:{tag.format_map(values)}" for tag in self._tags]
        try:
            versions, found = await cache.find(key, tags)
        except StoreUnavailable:
            return
        if found is None:
            if versions is not None:
                ResponseRecorder(request.scope, partial(self._keep, cache, key, versions, keyed), _MAX_RESPONSE_BYTES)
            return
        condition = headers.get("if-none-match")
        age = str(found.age_seconds)
        if condition is not None and matches(condition, found.etag.removeprefix("W/")):
            raise HTTPException(304, headers={"ETag": found.etag, "Cache-Control": self._control, "Age": age})
        raise Replay(found.response.with_headers((b"age", age.encode())))

    async def _caller(self, request: Request, keyed: Set[bytes]) -> tuple[str, ...]:
        """Return the caller's part of the key, scopes included: a caller that loses one gets no old response."""
        sent = [f"{name!r}={value!r}" for name, value in request.scope["headers"] if name in keyed]
        if self.is_shared:
            return ("everybody", *sent)
        principal = await principal_of(request)
        if principal is None:
            return ("nobody", *sent)
        return ("caller", principal.key, " ".join(sorted(principal.scopes)), *sent)

    async def _keep(
        self, cache: ResponseCache, key: str, versions: list[str], keyed: Set[bytes], response: RecordedResponse | None
    ) -> None:
        if response is not None and response.status == 200 and self._is_cacheable(response, keyed):
            await cache.keep(key, versions, response, self._seconds)

    def _is_cacheable(self, response: RecordedResponse, keyed: Set[bytes]) -> bool:
        """Return whether the headers allow it, and the response varies by no header outside its key."""
        control, vary = "", b""
        for name, value in response.headers:
            match name.lower():
                case b"set-cookie":
                    return False
                case b"cache-control":
                    control += value.decode("latin-1").lower()
                case b"vary":
                    vary += value.lower() + b","
        if "no-store" in control or (self.is_shared and "private" in control):
            return False
        return {one.strip() for one in vary.split(b",")} - {b""} <= keyed


def check_routes(router: APIRouter) -> Iterator[str]:
    """Yield what is wrong with the cached routes, and store which headers the parameters of the others read."""
    for context in routes_of(router):
        found = dependant_of(context)
        calls = list(calls_of(found))
        for one in calls:
            if not isinstance(one, Cached):
                continue
            route = name_of(context)
            if methods_of(context) != ("GET",):
                yield f"{route} is cached, but is not a GET route: remove `cached`, or give the other methods a route."
            elif one.is_shared and any(isinstance(call, Requires) or call is principal_of for call in calls):
                yield f"{route} reads its principal, but shares its cached responses: remove `shared=True`."
            elif unknown := one.path_names - compile_path(getattr(context, "path", None) or "")[2].keys():
                yield f"{route} is cached with a tag that uses {', '.join(sorted(unknown))}, which is not in its path."
            elif found is not None:
                headers = frozenset(_headers(found)) - _CONDITIONS
                one.read_headers[getattr(context.original_route, "endpoint", None)] = headers


def _path_values(request: Request) -> dict[str, Any]:
    """Return the path's values as the handler gets them (`/things/007` is thing 7); invalid ones stay text."""
    values = dict(request.path_params)
    for field in request.scope["route"].dependant.path_params:
        value, errors = field.validate(values.get(field.alias), {}, loc=("path", field.alias))
        if not errors:
            values[field.alias] = value
    return values


def _headers(dependant: Dependant) -> Iterator[bytes]:
    """Yield the headers that the parameters of a route and of its dependencies read."""
    for field in dependant.header_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):  # one header for each of its fields
            names = [info.alias or name for name, info in model.model_fields.items()]
        else:
            names = [field.alias]
        for name in names:
            yield name.replace("_", "-").lower().encode("latin-1")
    if dependant.cookie_params:
        yield b"cookie"
    for one in dependant.dependencies:
        yield from _headers(one)
