"""Message handlers: functions in handlers.py of a module, marked by `@subscribe`."""

import ast
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from sqlalchemy import Table, bindparam, insert, literal, select
from sqlalchemy.exc import DBAPIError

from kernel.database import Database
from kernel.database.errors import violation_of
from kernel.errors import ProjectError
from kernel.ext.messaging.dependencies import Dependency, DependencyError, dependencies_of, resolve
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.message import Message, snake_case
from kernel.ext.messaging.tables import clock
from kernel.web.context import CallContext, call_context, get_db

_MARK = "__kernel_subscribes_to__"
_PLAINLY = (
    "is not written plainly, so other processes would not find it. Write `@subscribe(OrderPlaced)` above a "
    "function of this file, and import the message by name: `from modules.shop.contract import OrderPlaced`"
)

Function = TypeVar("Function", bound=Callable[..., Awaitable[None]])


@dataclass(slots=True, kw_only=True)
class MessageContext(CallContext):
    """The context of a handler: `context: CurrentContext` in a dependency of a handler is one."""

    # The same at each delivery, so that calls to other systems can use it as their idempotency key.
    message_id: str


class HandlerError(ProjectError):
    """A handler that cannot be called. Says what to change."""


def subscribe(message: type[Message]) -> Callable[[Function], Function]:
    """Mark `async def forget_image(message: ImageDeleted, events: Events) -> None` as a handler of the message.

    It runs in a transaction of its module, at least once for each message, and its writes take effect once. The first
    parameter is the message; the others are dependencies, as in a router. The name of the function is stored with each
    message: after renaming it, run `kernel messages move`.
    """

    def mark(function: Function) -> Function:
        where = f"{function.__module__}.{function.__qualname__}"
        if hasattr(function, _MARK):
            raise TypeError(f"{where} subscribes twice: write a handler for each message")
        if function.__module__.startswith("modules.") and not function.__module__.endswith(".handlers"):
            raise TypeError(f"{where} is not in handlers.py, and would not be found")
        setattr(function, _MARK, message)
        return function

    return mark


def read_subscriptions(path: Path) -> dict[str, str]:
    """Return the names of the messages to which a handlers.py subscribes, by handler. Nothing is imported.

    Raises SyntaxError, and HandlerError for a subscription that it cannot read. `handlers_of` refuses subscriptions
    that this function does not see.
    """
    tree = ast.parse(path.read_bytes(), str(path))
    homes = {
        alias.asname or alias.name: (node.module.split(".")[1], alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modules.") and node.module
        for alias in node.names
    }
    found = {}
    for function in tree.body:
        if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
            continue
        for decorator in function.decorator_list:
            match decorator:
                case ast.Call(func=ast.Name("subscribe"), args=[ast.Name(message)]) if message in homes:
                    owner, name = homes[message]
                    found[function.name] = f"{owner}.{snake_case(name)}"
                case ast.Call(func=ast.Name("subscribe") | ast.Attribute(attr="subscribe")):
                    raise HandlerError(f"modules/{path.parent.name}/handlers.py: {function.name} {_PLAINLY}")
    return found


@dataclass(frozen=True)
class Handler:
    """A module's function that handles the messages of one type."""

    module: str
    message: type[Message]
    function: Callable[..., Awaitable[None]]
    # Its parameters beside the message.
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the subscriber: `events.forget_image`."""
        return f"{self.module}.{self.function.__name__}"

    async def handle(
        self, envelope: Envelope, database: Database, inbox: Table, context: CallContext, *, is_first: bool
    ) -> bool:
        """Handle a message once, and return False if it was handled before.

        The inbox row is written in the transaction of the handler, as its last statement, so that a handler may call
        other modules before it writes. Unless this is the first attempt, the row is looked up before. Its primary key
        refuses a second row in any case.
        """
        if envelope.name != self.message.message_name():
            raise HandlerError(f"{self.name} subscribes to {self.message.message_name()}, not to {envelope.name}")
        message = self.message.from_stored(envelope.version, envelope.payload)
        mine = {"message_id": envelope.id, "subscriber": self.name}
        if not is_first and await self._was_handled(database, inbox, mine):
            return False
        try:
            async with database.transaction() as session:
                arguments = await resolve(self.dependencies, {call_context: context, get_db: session})
                await self.function(message, **arguments)
                await session.rows(_handled(inbox), mine)
        except DBAPIError as error:
            if violation_of(error) == "unique" and await self._was_handled(database, inbox, mine):
                return False  # another process was faster; this transaction is rolled back
            raise
        return True

    async def _was_handled(self, database: Database, inbox: Table, mine: dict[str, str]) -> bool:
        return bool(await database.run(_is_handled(inbox), mine))


def handlers_of(module: str, file: ModuleType) -> Iterator[Handler]:
    """Yield the handlers in handlers.py of a module. Raises HandlerError."""
    place = f"modules/{module}/handlers.py"
    path = Path(str(file.__file__))
    if path.name != "handlers.py":
        raise HandlerError(f"modules/{module}/handlers is a folder, which other processes do not read: use {place}")
    marked = {name: getattr(value, _MARK) for name, value in vars(file).items() if hasattr(value, _MARK)}
    read = read_subscriptions(path)
    if odd := sorted(read.items() ^ {name: message.message_name() for name, message in marked.items()}.items()):
        raise HandlerError(f"{place}: {odd[0][0]} {_PLAINLY}")
    for name, message in marked.items():
        yield _handler(module, f"{place}: {name}", getattr(file, name), message)


def _handler(module: str, where: str, function: Callable[..., Awaitable[None]], message: type[Message]) -> Handler:
    if not inspect.iscoroutinefunction(function):
        raise HandlerError(f"{where} must be `async def`")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise HandlerError(f"{where}: {error}. Import the names of annotations at run time") from None
    first = next(iter(inspect.signature(function).parameters), "")
    if hints.get(first) is not message:
        raise HandlerError(f"{where} must take the {message.__name__} to which it subscribes first")
    try:
        dependencies = dependencies_of(function, where, own=[first], given=[call_context, get_db])
    except DependencyError as error:
        raise HandlerError(str(error)) from None
    return Handler(module, message, function, dependencies)


@cache
def _is_handled(inbox: Table) -> Any:
    of = [inbox.c[name] == bindparam(name) for name in ("message_id", "subscriber")]
    return select(literal(1)).select_from(inbox).where(*of)


@cache
def _handled(inbox: Table) -> Any:
    return insert(inbox).values(handled_at=clock()).returning(inbox.c.message_id)
