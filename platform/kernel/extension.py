"""How an extension plugs into the kernel.

An extension is a subclass of `Extension`, named in the entry-point group `kernel.extensions` of its distribution. The
kernel calls its hooks in the order of `requires`: `configure` before anything of the application exists,
`configure_module` for each module, `assemble` when all modules are known, `lifespan` while the application runs.
docs/extensions.md shows a whole one.
"""

import ast
import tomllib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

from kernel.errors import ProjectError
from kernel.tracing import NoTracer, Tracer

if TYPE_CHECKING:
    from fastapi import APIRouter
    from sqlalchemy.engine import URL
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Scope

    from kernel.application import Application
    from kernel.auth.principal import Authentication
    from kernel.database import AsyncDBPool
    from kernel.database.migrations import TableInspector
    from kernel.gauges import GaugeSource
    from kernel.health import Check
    from kernel.http_client import HttpxRestClientPool
    from kernel.modules.contracts import CallRule, Contract
    from kernel.modules.discovery import DiscoveredModule, ModuleFiles
    from kernel.modules.manifest import ModuleContext
    from kernel.runtime import Kernel
    from kernel.serving import ServerRunner
    from kernel.settings import Fault, Settings, SettingsGroup, Sources
    from kernel.web.dispatch import Compile
    from kernel.web.middleware import AccessLog, RequestContextMiddleware

GROUP = "kernel.extensions"
# Functions that add an extension's commands to the command line `kernel`, under the extension's name. They are apart,
# so that `kernel --help` does not import the extensions.
COMMANDS_GROUP = "kernel.commands"
# How the variables of extensions begin, each with the name of its extension. They stay reserved without the extension.
VARIABLES_GROUP = "kernel.variables"

Thing = TypeVar("Thing")


class ExtensionError(ProjectError):
    """The extensions that a project needs cannot all be used; says which, why, and what to do."""


class RequestObserver(Protocol):
    """Is told of every request and WebSocket: telemetry, or an audit log."""

    def started(self, scope: "Scope") -> None:
        """A request has come in."""

    def ended(self, scope: "Scope", status: int, seconds: float) -> None:
        """The last byte of the response has been sent, or the caller has left (status 499)."""


class WebSocketServer(Protocol):
    """Serves the WebSocket routes of modules."""

    def serve(self, outer: "RequestContextMiddleware") -> "ASGIApp":
        """Return the outermost layer of a WebSocket, around the application of `outer`."""

    def answer_errors(self, app: "ASGIApp", http: "ASGIApp", handlers: Mapping[Any, Any]) -> "ASGIApp":
        """Return a layer that answers the errors of `app` for a WebSocket, and passes requests to `http`."""

    def are_routed(self, app: "Application") -> bool:
        """Return whether a route may answer a WebSocket. If none does, a server ignores requests to upgrade."""


@dataclass(frozen=True)
class Mounted:
    """An ASGI application of an extension, below a path prefix. It authorises its callers itself."""

    app: "ASGIApp"
    max_body_bytes: int


@dataclass
class ApplicationBuilder:
    """The additions of extensions to one application. Their hooks write it; the kernel reads it afterwards."""

    settings: "Settings"
    modules: "tuple[DiscoveredModule, ...]"
    # No engine exists before the first module is configured, and no client before the start.
    pool: "AsyncDBPool"
    http: "HttpxRestClientPool"
    rule: "CallRule"
    # Implementations of the contracts of modules that do not run here.
    contracts: "dict[type[Contract], Contract]" = field(default_factory=dict)
    health_checks: "dict[str, Check]" = field(default_factory=dict)
    observers: list[RequestObserver] = field(default_factory=list)
    gauges: "list[GaugeSource]" = field(default_factory=list)
    # Returns the place of a request in a trace for its log lines, {"traceparent": ...}; None: as the caller sent it.
    trace_of: "Callable[[Scope], Mapping[str, str] | None] | None" = None
    # Records the work of extensions in traces.
    tracer: Tracer = field(default_factory=NoTracer)
    # Outside the handling of errors and inside the request context, so that it sees every response as it is sent; the
    # first one is the outermost.
    outer_middleware: "list[Callable[[ASGIApp], ASGIApp]]" = field(default_factory=list)
    # Around the application for requests with an Origin header, which web pages send; None: nothing.
    for_web_pages: "Callable[[ASGIApp], ASGIApp] | None" = None
    # Around the dispatch of requests and inside the handling of errors; the first one is the outermost.
    middleware: "list[Callable[[ASGIApp], ASGIApp]]" = field(default_factory=list)
    # Each below its prefix.
    mounts: dict[str, Mounted] = field(default_factory=dict)
    # Routes outside the modules. Each authorises its callers itself.
    routes: "list[BaseRoute]" = field(default_factory=list)
    # Each yields what is wrong with a module's router; any fault stops the start.
    route_rules: "list[Callable[[APIRouter], Iterator[str]]]" = field(default_factory=list)
    # Databases to which an extension opens a connection beside the pool's, once for each connection.
    connections: "list[URL]" = field(default_factory=list)
    error_handlers: dict[int | type[Exception], Any] = field(default_factory=dict)
    # Compiles routes in place of FastAPI's own handling; None for one that it leaves to FastAPI.
    compile_endpoint: "Compile | None" = None
    # How a process that serves writes the access log; None: as every other event.
    access_log: "AccessLog | None" = None
    # None: a WebSocket route stops the start, and a handshake is refused.
    websockets: WebSocketServer | None = None
    # Identifies callers. None: every caller is the developer, and the start is refused if AUTH_ENABLED is on.
    authentication: "Authentication | None" = None
    # Each completes the OpenAPI document.
    openapi_steps: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    # Options of the FastAPI application.
    fastapi_options: dict[str, Any] = field(default_factory=dict)
    # Makes what compares models with tables for the command `kernel migrate`.
    table_inspector: "Callable[[], TableInspector] | None" = None
    provided: dict[type, object] = field(default_factory=dict)

    def provide(self, thing: object) -> None:
        """Let the kernel, dependencies and other extensions find this object by its type: `kernel.get(RateLimiter)`."""
        self.provided[type(thing)] = thing

    def find(self, kind: type[Thing]) -> Thing | None:
        """Return the object of this type that an extension provides, or None."""
        return cast("Thing | None", self.provided.get(kind))

    def get(self, kind: type[Thing]) -> Thing:
        """Return the object of this type that an extension provides. Raises LookupError."""
        thing = self.find(kind)
        if thing is None:
            raise LookupError(f"no extension provides {kind.__module__}.{kind.__name__}: is its extension in use?")
        return thing


class Breach(NamedTuple):
    """A place that breaks a boundary rule."""

    # Below the root, with slashes.
    path: str
    line: int
    # One sentence each: what is wrong, and what to do instead.
    why: str
    instead: str


@dataclass(frozen=True)
class BoundaryRule:
    """A rule of `kernel check`. `check` gets a module's name and its parsed files, by their paths below the root."""

    name: str
    check: Callable[[str, Mapping[str, ast.Module]], Iterable[Breach]]


class Extension:
    """Adds one capability to the kernel. Subclass it and override what you need.

    Each application has an instance of its own, made without arguments.
    """

    name: ClassVar[str]
    # The extensions that it imports. They are configured before it.
    requires: ClassVar[tuple[str, ...]] = ()
    # Packages of its extra that it imports when it is used. It counts as not installed while one is missing.
    packages: ClassVar[tuple[str, ...]] = ()
    settings: "ClassVar[tuple[type[SettingsGroup], ...]]" = ()
    # A pytest plugin with fixtures for its users: "kernel.ext.messaging.testing".
    fixtures: ClassVar[str | None] = None
    # The files of a module that it reads, each with the layer on which it stands: {"handlers": "router"}.
    module_files: ClassVar[Mapping[str, str]] = {}
    # Pages for developers, by title, which `kernel serve` prints: {"Docs": "/docs"}.
    pages: ClassVar[Mapping[str, str]] = {}

    def locate(self, sources: "Sources", enabled: Collection[str] | None) -> Collection[str]:
        """Return the modules that run in other processes, so that discovery passes over them."""
        return ()

    def check_settings(
        self, sources: "Sources", groups: "Sequence[SettingsGroup]", elsewhere: Collection[str]
    ) -> "Iterable[Fault]":
        """Yield what is wrong with the settings taken together. `groups` lacks those that could not be built."""
        return ()

    def check_module(self, files: "ModuleFiles") -> Iterable[str]:
        """Yield what is wrong with what one module declares, each with the file and the remedy."""
        return ()

    def server(self) -> "ServerRunner | None":
        """Return what `kernel serve` runs in place of plain uvicorn."""
        return None

    def configure(self, app: ApplicationBuilder) -> None:
        """Change how the kernel makes its pool and its client, and register what needs no module."""

    def configure_module(self, module: "DiscoveredModule", context: "ModuleContext") -> None:
        """Read what one module declares for this extension."""

    def assemble(self, kernel: "Kernel") -> None:
        """Register what needs to know all modules: mounts, checks, contracts. Nothing is open yet."""

    def check_start(self, kernel: "Kernel") -> "Iterable[Fault]":
        """Yield why the application must not start: settings with which it would run and not do what is wanted."""
        return ()

    def rules(self) -> Iterable[BoundaryRule]:
        """Return rules that `kernel check` applies to every module. They read the modules and do not run them."""
        return ()

    @asynccontextmanager
    async def lifespan(self, kernel: "Kernel") -> AsyncIterator[None]:
        """Run while the application runs. The pools are open; the modules' own lifespans are inside this one."""
        yield

    @asynccontextmanager
    async def serving(self, kernel: "Kernel") -> AsyncIterator[None]:
        """Run while the modules run: inside their lifespans. Not entered by commands that only use a module."""
        yield


def load_extensions(root: Path) -> tuple[type[Extension], ...]:
    """Return the extensions of a project, each after those that it requires.

    These are all installed ones whose dependencies are there. `[tool.kernel]` of `pyproject.toml` may list those that
    the product needs (`extensions`) and those that it does not want (`without-extensions`). Raises ExtensionError.
    """
    needed, unwanted = _choice(root / "pyproject.toml")
    found, missing, _ = installed()
    missing = {**missing, **{name: "it is listed in without-extensions" for name in unwanted if name in found}}
    found = {name: kind for name, kind in found.items() if name not in unwanted}
    if faults := [f"{name}: {missing.get(name, 'it is not installed')}" for name in needed if name not in found]:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise ExtensionError(
            f"[tool.kernel] of pyproject.toml lists extensions that cannot be used:\n{lines}\n"
            "Install them, or take them out of the list."
        )
    return _in_order(found, missing)


def _choice(path: Path) -> tuple[Sequence[str], Collection[str]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("kernel", {})
    except (OSError, ValueError):
        table = {}  # the settings report an unreadable file
    return table.get("extensions", ()), frozenset(table.get("without-extensions", ()))


class Installed(NamedTuple):
    """The declarations of the installed distributions."""

    # By name.
    extensions: Mapping[str, type[Extension]]
    # Why the other extensions cannot be imported, by name.
    missing: Mapping[str, str]
    # The extensions, installed or not, by how their variables begin.
    variables: Mapping[str, str]


@cache
def installed() -> Installed:
    """Return the extensions that can be imported, and why the others cannot. Raises ExtensionError."""
    found, missing = {}, {}
    points = entry_points()
    for point in points.select(group=GROUP):
        try:
            kind = _load(point)
        except ModuleNotFoundError as error:
            missing[point.name] = _why(point, error)
        else:
            found[kind.name] = kind
    return Installed(found, missing, {point.name: point.value for point in points.select(group=VARIABLES_GROUP)})


def _load(point: EntryPoint) -> type[Extension]:
    """Raises ModuleNotFoundError for the first package that is missing, and ExtensionError."""
    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, Extension)):
        raise ExtensionError(f"The entry point {point.name} of {GROUP} names {point.value}, which is no Extension.")
    for package in kind.packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    return kind


def _why(point: EntryPoint, error: ModuleNotFoundError) -> str:
    """Tell an extension whose optional dependency is missing from an entry point that leads nowhere."""
    absent = error.name or ""
    distribution = point.dist.name if point.dist is not None else "its distribution"
    if point.module == absent or point.module.startswith(f"{absent}."):
        raise ExtensionError(
            f"The extension {point.name} is declared by {distribution}, but {point.module} does not exist. "
            f"Install {distribution} again, or remove the entry point {point.name} from its pyproject.toml."
        ) from error
    if absent.startswith("kernel.ext."):
        return f"it imports {absent}, which does not exist"
    return f"it needs {absent}: install {distribution}[{point.name}]"


def _in_order(found: Mapping[str, type[Extension]], missing: Mapping[str, str]) -> tuple[type[Extension], ...]:
    for kind in found.values():
        for other in kind.requires:
            if other not in found:
                raise ExtensionError(
                    f"The extension {kind.name} requires {other}, which cannot be used: "
                    f"{missing.get(other, 'it is not installed')}. Name {kind.name} in without-extensions of "
                    "[tool.kernel] in pyproject.toml, or install both."
                )
    try:
        order = TopologicalSorter({name: sorted(kind.requires) for name, kind in sorted(found.items())}).static_order()
        return tuple(found[name] for name in order)
    except CycleError as error:
        raise ExtensionError(f"Extensions require each other: {' -> '.join(error.args[1])}.") from error
