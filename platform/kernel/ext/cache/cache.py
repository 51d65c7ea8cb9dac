"""Answers that are kept for a while, for who asks the same again: `dependencies=[cached(60, tags=["event:{id}"])]`.

A kept answer is its caller's own, unless the route says that it is everybody's. It holds as long as its tags have the
versions that they had before it was read. So what is forgotten stays forgotten, even if a read that began before it
ends only after it. While the store does not answer, it is as if nothing were kept; what was to be forgotten meanwhile
is forgotten when it answers again, and until then the process that owes it reads nothing from it.
"""

import asyncio
import hashlib
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence, Set
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from string import Formatter
from typing import Annotated, Any, NamedTuple

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import _get_flat_fields_from_params
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from kernel.auth.policy import Requires, calls_of, dependant_of, name_of
from kernel.auth.principal import principal_of
from kernel.database import after_commit
from kernel.ext.store.settings import StoreSettings
from kernel.ext.store.store import OwnStore, SharedStore, StoreUnavailable
from kernel.modules.manifest import module_context
from kernel.web.conditional import matches
from kernel.web.context import CurrentContext, request_context
from kernel.web.recorder import Answer, Keeper, Replay
from kernel.web.routes import methods_of, routes_of
from kernel.web.session import Session

_log = structlog.get_logger("kernel.cache")

# A larger answer is not kept.
_MAX_ANSWER_BYTES = 1024 * 1024
# How long a tag keeps its version. Without one it gets another, and what had it is no longer valid.
_TAG_SECONDS = 86400.0
# A tag of every answer, for when more is owed than can be told one by one.
_ALL = "cache:all"
_MOST_OWED = 1000
# While something is owed the store is asked so often whether it answers again.
_RETRY_SECONDS = 0.5
# The headers that are part of every key. An answer that varies by a header that is not part of its key is not kept.
_KEYED = frozenset({b"accept", b"accept-language", b"host"})
# What the cache itself answers to.
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since", b"if-range"})


class Kept(NamedTuple):
    """An answer from the store."""

    answer: Answer
    etag: str
    age_seconds: int


class AnswerCache:
    """The kept answers of an application, in its Redis or, without one, in this process."""

    def __init__(self, settings: StoreSettings, shared: SharedStore, version: str, lag_seconds: float = 0) -> None:
        """`version` is the application's: another may answer otherwise.

        `lag_seconds` is by how much reads may be behind writes: what is read sooner after its tag was forgotten may be
        what was, and is not kept.
        """
        self._store = shared if shared.is_configured else OwnStore(settings.memory_bytes)
        self._version = version
        self._lag_seconds = lag_seconds
        # Tags that are still to be forgotten, each with a number that is new whenever it is said again.
        self._owed: dict[str, int] = {}
        self._numbers = itertools.count()
        self._paying: asyncio.Task[None] | None = None

    def key(self, *parts: str) -> str:
        """The name of what is told apart by these."""
        text = json.dumps([self._version, *parts])
        return f"cache:answer:{hashlib.sha256(text.encode()).hexdigest()}"

    async def find(self, key: str, tags: Sequence[str]) -> tuple[list[str] | None, Kept | None]:
        """What is kept, and the versions of its tags; None for these if nothing may be kept now.

        Raises StoreUnavailable.
        """
        if self._paying is not None:
            raise StoreUnavailable
        names = [_ALL, *map(_name, tags)]
        found, *versions = await self._store.get([key, *names])
        if None in versions:
            await self._store.put({name: _new_version(0) for name in names}, _TAG_SECONDS, if_new=True)
            versions = await self._store.get(names)
        current = [version.decode() for version in versions if version is not None]
        if found is not None:
            head, _, body = found.partition(b"\n")
            known, kept_at, etag, headers = json.loads(head)
            if known == current:
                pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
                return current, Kept(Answer(200, pairs, body), etag, max(0, int(time.time() - kept_at)))
        since = time.time() - self._lag_seconds
        may_be_kept = len(current) == len(names) and all(float(one.partition("-")[0]) <= since for one in current)
        return current if may_be_kept else None, None

    async def keep(self, key: str, versions: Sequence[str], answer: Answer, seconds: float) -> None:
        """Keep it for so long. Does nothing while the store does not answer."""
        etag = next((value.decode("latin-1") for name, value in answer.headers if name.lower() == b"etag"), None)
        own = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        if etag is None:
            headers.append(("etag", own))
        head = json.dumps([versions, time.time(), etag or own, headers]).encode()
        with suppress(StoreUnavailable):
            await self._store.put({key: head + b"\n" + answer.body}, seconds)

    async def forget(self, tags: Collection[str]) -> None:
        """What has one of these tags is no longer valid; at the latest soon after the store answers again."""
        names = [_name(tag) for tag in tags]
        self._owed.update((name, next(self._numbers)) for name in names)
        try:
            await self._pay(names)
        except BaseException as error:  # also where the caller has left: it is owed all the same
            if len(self._owed) > _MOST_OWED:
                self._owed = {_ALL: next(self._numbers)}
            if self._paying is None:  # without what belongs to the request at hand
                self._paying = asyncio.create_task(self._pay_later(), context=Context())
            if not isinstance(error, StoreUnavailable):
                raise

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At its end, try a last time to forget what is still to be forgotten."""
        yield
        if self._paying is not None:
            self._paying.cancel()
            self._paying = None
            with suppress(StoreUnavailable):
                await self._pay(list(self._owed))
            if self._owed:
                _log.warning("some cached answers could not be forgotten: others give them until their time is over")

    async def _pay_later(self) -> None:
        while self._owed:
            await asyncio.sleep(_RETRY_SECONDS)
            with suppress(StoreUnavailable):
                await self._pay(list(self._owed))
        self._paying = None

    async def _pay(self, names: Sequence[str]) -> None:
        """Raises StoreUnavailable, and then it is still owed."""
        numbers = {name: self._owed.get(name) for name in names}
        await self._store.put({name: _new_version(time.time()) for name in names}, _TAG_SECONDS)
        for name, number in numbers.items():
            if self._owed.get(name) == number:  # not said again meanwhile
                self._owed.pop(name, None)


def _name(tag: str) -> str:
    return f"cache:tag:{tag}"


def _new_version(forgotten_at: float) -> bytes:
    return f"{forgotten_at:.3f}-{os.urandom(8).hex()}".encode()


class Cached:
    """A dependency: see `cached`."""

    def __init__(self, seconds: float, tags: Sequence[str], *, shared: bool) -> None:
        if not 0 < seconds <= _TAG_SECONDS:
            raise ValueError(f"an answer is kept for up to {_TAG_SECONDS:.0f} seconds, not for {seconds}")
        self.is_shared = shared
        self._seconds = seconds
        self._tags = tuple(tags)
        # Which values of the path the tags name. Raises ValueError for a tag that is no template.
        self.named = frozenset(name for tag in tags for _, name, _, _ in Formatter().parse(tag) if name is not None)
        # The headers that a route's parameters read, by its handler.
        self.reads: dict[object, frozenset[bytes]] = {}
        whose = "public" if shared else "private"
        # What others keep we cannot have them forget: where that can happen they ask again, with the ETag.
        self._control = f"{whose}, no-cache" if tags else f"{whose}, max-age={int(seconds)}"

    async def __call__(self, request: Request, response: Response) -> None:
        """Asked by FastAPI. Raises Replay, and 304."""
        response.headers["Cache-Control"] = self._control
        headers = request.headers
        if request.method != "GET" or "range" in headers:
            return
        cache: AnswerCache = request_context(request).kernel.get(AnswerCache)
        module = module_context(request).name
        scope = request.scope  # as it came: a URL made from it is not the same for every two that differ
        asked = (scope["scheme"], scope["path"], repr(scope.get("raw_path")), repr(scope["query_string"]))
        keyed = _KEYED | self.reads.get(request.scope["endpoint"], frozenset())
        if not self.is_shared:
            keyed |= {b"cookie"}
        key = cache.key(module, *asked, *await self._caller(request, keyed))
        values = _path_values(request) if self.named else {}
        tags = [f"{module}:{tag.format_map(values)}" for tag in self._tags]
        try:
            versions, kept = await cache.find(key, tags)
        except StoreUnavailable:
            return
        if kept is None:
            if versions is not None:
                Keeper(request.scope, partial(self._keep, cache, key, versions, keyed), _MAX_ANSWER_BYTES)
            return
        known = headers.get("if-none-match")
        age = str(kept.age_seconds)
        if known is not None and matches(known, kept.etag.removeprefix("W/")):
            raise HTTPException(304, headers={"ETag": kept.etag, "Cache-Control": self._control, "Age": age})
        raise Replay(kept.answer.adding((b"age", age.encode())))

    async def _caller(self, request: Request, keyed: Set[bytes]) -> tuple[str, ...]:
        """What else tells two requests apart. The scopes, too: who has lost one may no longer be answered."""
        sent = [f"{name!r}={value!r}" for name, value in request.scope["headers"] if name in keyed]
        if self.is_shared:
            return ("everybody", *sent)
        principal = await principal_of(request)
        if principal is None:
            return ("nobody", *sent)
        return ("caller", principal.key, " ".join(sorted(principal.scopes)), *sent)

    async def _keep(
        self, cache: AnswerCache, key: str, versions: list[str], keyed: Set[bytes], answer: Answer | None
    ) -> None:
        if answer is not None and answer.status == 200 and self._may_be_kept(answer, keyed):
            await cache.keep(key, versions, answer, self._seconds)

    def _may_be_kept(self, answer: Answer, keyed: Set[bytes]) -> bool:
        """Whether the answer allows it, and varies by nothing but the headers that are part of its key."""
        control, vary = "", b""
        for name, value in answer.headers:
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


def cached(seconds: float, *, shared: bool = False, tags: Sequence[str] = ()) -> Any:
    """A dependency of a GET route: an answer with 200 is given again for so long to the same caller who asks the same.

    Behind whatever says who may ask, since dependencies run in their order; what stands behind it does not run for an
    answer that is kept. `shared`: to everybody; only where nobody has to say who they are. `tags` name what is told,
    with the values of the path (`event:{event_id}`), so that it can be forgotten before its time: see `Cache`.
    """
    return Depends(Cached(seconds, tags, shared=shared))


class ModuleCache:
    """Has a module's kept answers forgotten."""

    def __init__(
        self, forget: Callable[[Collection[str]], Awaitable[None]], module: str, session: AsyncSession
    ) -> None:
        self._forget = forget
        self._module = module
        self._session = session

    async def forget(self, *tags: str) -> None:
        """What the module's routes have `cached` with one of these tags is no longer given.

        At once, for a crash could come after the commit; and again after the commit, for who reads before it still
        reads what was. Raises TypeError in a GET.
        """
        names = [f"{self._module}:{tag}" for tag in tags]
        after_commit(self._session, partial(self._forget, names))
        await self._forget(names)


async def _cache(context: CurrentContext, session: Session) -> ModuleCache:
    return ModuleCache(context.kernel.get(AnswerCache).forget, context.require_module().name, session)


Cache = Annotated[ModuleCache, Depends(_cache)]
"""For handlers of messages, and for routes that change something: `await cache.forget("event:7")`."""


def _path_values(request: Request) -> dict[str, Any]:
    """The path's values as the handler gets them: `/things/007` is told of thing 7. Those that are none stay text."""
    values = dict(request.path_params)
    for field in request.scope["route"].dependant.path_params:
        value, errors = field.validate(values.get(field.alias), {}, loc=("path", field.alias))
        if not errors:
            values[field.alias] = value
    return values


def misplaced(router: APIRouter) -> Iterator[str]:
    """What is wrong with the routes that are cached. Tells the right ones which headers their parameters read."""
    for context in routes_of(router):
        found = dependant_of(context)
        calls = list(calls_of(found))
        for one in calls:
            if not isinstance(one, Cached):
                continue
            route = name_of(context)
            if methods_of(context) != ("GET",):
                yield f"{route} is cached, which only a GET may be: take `cached` away, or the other methods apart."
            elif one.is_shared and any(isinstance(call, Requires) or call is principal_of for call in calls):
                yield f"{route} asks who its caller is, but shares its cached answers: leave out `shared=True`."
            elif unknown := one.named - compile_path(getattr(context, "path", None) or "")[2].keys():
                yield f"{route} is cached with a tag that names {', '.join(sorted(unknown))}, which its path has not."
            elif found is not None:
                one.reads[getattr(context.original_route, "endpoint", None)] = frozenset(_headers(found)) - _CONDITIONS


def _headers(dependant: Dependant) -> Iterator[bytes]:
    """The headers that the parameters of a route and of its dependencies read."""
    for field in _get_flat_fields_from_params(dependant.header_params):
        yield field.alias.replace("_", "-").lower().encode("latin-1")
    if dependant.cookie_params:
        yield b"cookie"
    for one in dependant.dependencies:
        yield from _headers(one)
