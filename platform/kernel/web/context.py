"""The context in which code of a module runs: the application, the module, the request or message, and its session."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection
from starlette.types import Scope

if TYPE_CHECKING:
    from kernel.auth.principal import Principal
    from kernel.modules.manifest import ModuleContext
    from kernel.runtime import Kernel

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The only key that the kernel adds to the ASGI scope.
_KEY = "kernel"


@dataclass(slots=True)
class CallContext:
    """The application and the module for which code runs. Dependencies get it as `CurrentContext`."""

    kernel: "Kernel"
    # For a request, the module that serves its path; None outside the modules.
    module: "ModuleContext | None" = None

    def require_module(self) -> "ModuleContext":
        """Return the context of the module. Raises RuntimeError outside the modules."""
        if self.module is None:
            raise RuntimeError("This route belongs to no module. Move it into a module's router.")
        return self.module


@dataclass(slots=True, kw_only=True)
class RequestContext(CallContext):
    """The kernel's data about one request. RequestContextMiddleware creates it and puts it into the ASGI scope."""

    request_id: str
    # The largest body, or message of a WebSocket. The dispatcher sets it.
    max_body_bytes: int = 0
    # The caller, set when it is first needed.
    principal: "Principal | None" = None
    is_identified: bool = False
    # Headers for every response to this request, errors included.
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    # The status in the access log if no response was sent: 499, the client disconnected.
    status_without_response: int = 499
    # Whether the response, such as server-sent events, ends only when the client or the server closes it.
    is_endless: bool = False
    # Data of extensions for one request, by type.
    values: dict[type, Any] = field(default_factory=dict)

    def attach(self, scope: Scope) -> None:
        """Make this the context of a request."""
        scope[_KEY] = self


def route_path(scope: Scope) -> str:
    """Return the path of a request below `root_path`, the prefix under which a proxy serves the application."""
    path: str = scope["path"]
    prefix = scope.get("root_path", "")
    is_below = prefix and path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}
    return path[len(prefix) :] if is_below else path


def find_context(scope: Mapping[str, Any]) -> RequestContext | None:
    """Return the context of a request, or None if it did not pass through RequestContextMiddleware."""
    context: RequestContext | None = scope.get(_KEY)
    return context


def request_context(connection: HTTPConnection) -> RequestContext:
    """Return the context of this request. Raises RuntimeError outside an application of the kernel."""
    context = find_context(connection.scope)
    if context is None:
        raise RuntimeError("This request has no kernel context. Serve it by an application made by kernel.create_app.")
    return context


async def call_context(connection: HTTPConnection) -> CallContext:
    """Return the context of the request. In a message handler, the kernel supplies the message's context instead."""
    return request_context(connection)


CurrentContext = Annotated[CallContext, Depends(call_context)]


def open_session(connection: HTTPConnection) -> AbstractAsyncContextManager[AsyncSession]:
    """Open the session of a request: a read session for safe methods and WebSockets, otherwise a transaction."""
    database = request_context(connection).require_module().database
    # A WebSocket may stay open for hours, and a transaction would hold its connection all that time.
    is_read = connection.scope.get("method") in _SAFE_METHODS or connection.scope["type"] == "websocket"
    return database.read() if is_read else database.transaction()


async def get_db(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Yield a read session for GET, HEAD, OPTIONS and WebSockets, otherwise a transaction.

    Handlers never commit. The transaction commits after the handler has returned and before the response is sent, so
    that a failed COMMIT is never reported as a success. Use it as `Session`; override it in tests.
    """
    async with open_session(connection) as session:
        yield session


# With FastAPI's default scope, the code after `yield`, and with it the COMMIT, would run after the response was sent.
Session = Annotated[AsyncSession, Depends(get_db, scope="function")]

Made = TypeVar("Made")


def with_session(make: Callable[[AsyncSession], Made]) -> Made:
    """Return a dependency that calls `make` with the request's session: `with_session(EventRepository)`.

    `Depends(EventRepository)` would do the same in a thread, because FastAPI assumes that a class may block.
    """

    async def made(session: Session) -> Made:
        return make(session)

    dependency: Any = Depends(made)
    return cast(Made, dependency)
