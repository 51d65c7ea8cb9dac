"""Where code of a module runs: in which application, for which module, and for which request or message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

if TYPE_CHECKING:
    from kernel.auth.principal import Principal
    from kernel.modules.manifest import ModuleContext
    from kernel.runtime import Kernel

# The one key of the kernel's in the ASGI scope.
_KEY = "kernel"


@dataclass(slots=True)
class CallContext:
    """The application and the module for which code runs. Dependencies get it as `CurrentContext`."""

    kernel: "Kernel"
    # For a request: the module whose routes the path leads to. None outside the modules.
    module: "ModuleContext | None" = None

    def require_module(self) -> "ModuleContext":
        """Return the context of the module. Raises RuntimeError outside the modules."""
        if self.module is None:
            raise RuntimeError("This route belongs to no module.")
        return self.module


@dataclass(slots=True, kw_only=True)
class RequestContext(CallContext):
    """What the kernel knows of one request. The outermost layer makes it, and it travels in the ASGI scope."""

    request_id: str
    # The caller, once it was asked for.
    principal: "Principal | None" = None
    is_identified: bool = False
    # Headers that every response of this request gets, also an error.
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    # What the access log says of a request that got no response: 499, the caller has left.
    status_without_response: int = 499
    # A response that ends only when the caller or the server does: server-sent events.
    is_endless: bool = False
    # What extensions keep for the time of one request, by its type.
    values: dict[type, Any] = field(default_factory=dict)

    def attach(self, scope: Scope) -> None:
        """Make this the context of a request."""
        scope[_KEY] = self


def find_context(scope: Mapping[str, Any]) -> RequestContext | None:
    """Return the context of a request; None for one that did not come through the kernel's outermost layer."""
    context: RequestContext | None = scope.get(_KEY)
    return context


def request_context(connection: HTTPConnection) -> RequestContext:
    """Return the context of this request. Raises RuntimeError outside an application of the kernel."""
    context = find_context(connection.scope)
    if context is None:
        raise RuntimeError("This request did not come through an application made by kernel.create_app.")
    return context


async def call_context(connection: HTTPConnection) -> CallContext:
    """A dependency: the context of the request. A message handler gets the context of its message instead."""
    return request_context(connection)


CurrentContext = Annotated[CallContext, Depends(call_context)]
