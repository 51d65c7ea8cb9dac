"""What the modules of one process tell each other, and how it gets there."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Table, and_, delete, select
from sqlalchemy.engine import URL
from starlette.requests import HTTPConnection

from kernel.database import Database
from kernel.database.listening import listen
from kernel.messaging.broker import Broker, BrokerUnavailable
from kernel.messaging.envelope import Envelope
from kernel.messaging.handlers import Handler, HandlerError
from kernel.messaging.message import Message
from kernel.messaging.outages import Failed, Outage, is_outage
from kernel.messaging.outbox import BROKER, CHANNEL, Delivery, Outbox, Wanted
from kernel.messaging.relay import Relay, Target
from kernel.messaging.tables import State, clock
from kernel.observability.health import Degraded
from kernel.observability.tracing import Tracing
from kernel.settings import DatabaseConfig, MessagingSettings

_log = structlog.get_logger("kernel.messaging")

_PURGE_EVERY_SECONDS = 600.0
_PURGED_AT_ONCE = 1000
_DAY_SECONDS = 86_400.0
_SEND_SECONDS = 5.0


@dataclass(frozen=True)
class Correspondent:
    """A module as one that tells and is told."""

    name: str
    database: Database
    handlers: Sequence[Handler]
    outbox: Table | None
    inbox: Table | None
    # Through which its handlers reach what the kernel gives a module.
    connection: HTTPConnection


class Exchange:
    """The outboxes of the modules here, and the targets of their messages."""

    def __init__(
        self,
        modules: Sequence[Correspondent],
        settings: MessagingSettings,
        database: DatabaseConfig,
        elsewhere: Mapping[str, Sequence[str]],
        tracing: Tracing | None = None,
    ) -> None:
        """`elsewhere` are the subscribers that run in other processes, by the message's name, as far as is known."""
        self._settings, self._config, self._tracing = settings, database, tracing
        self._modules = {module.name: module for module in modules}
        self._elsewhere = {name: whom for name, whom in elsewhere.items() if name.partition(".")[0] in self._modules}
        self._handlers: dict[str, list[Handler]] = {}
        self.outboxes: dict[str, Outbox] = {}
        self.targets: dict[str, Target] = {}
        names: dict[str, type[Message]] = {}
        for module in modules:
            if module.outbox is not None:
                outbox = Outbox(
                    module.name,
                    module.database,
                    module.outbox,
                    notifies=settings.listen,
                    max_bytes=settings.max_message_bytes,
                )
                outbox.subscribers_of = self.subscribers_of
                self.outboxes[module.name] = module.database.outbox = outbox
            for handler in module.handlers:
                message, name = handler.message, handler.message.message_name()
                if names.setdefault(name, message) is not message:
                    first, second = (f"{one.__module__}.{one.__name__}" for one in (names[name], message))
                    raise HandlerError(f"{first} and {second} have one name on the wire, {name}: rename one of them")
                self._handlers.setdefault(name, []).append(handler)
                wanted = Wanted(name, message.message_version)
                # SQLite has one writer: what waits for it would only use up the time that a handler has.
                on_sqlite = module.database.writer.dialect.name == "sqlite"
                deliver = partial(self._deliver, module, handler)
                self.targets[handler.name] = Target(wanted, deliver, at_once=1 if on_sqlite else sys.maxsize)
        self.broker: Broker | None = None
        if settings.broker_url is not None:
            self.broker = Broker(
                settings.broker_url.get_secret_value(),
                prefix=settings.broker_prefix,
                send_timeout_seconds=min(_SEND_SECONDS, settings.handler_timeout_seconds),
                lease_seconds=settings.handler_timeout_seconds,
            )
            self.targets[BROKER] = Target(Wanted(), partial(self._send, self.broker), self.broker.is_connected)
            for module in modules:
                self._receive(self.broker, module)

    def subscribers_of(self, name: str) -> Iterator[str]:
        """Whom a message of this name is for: a row each."""
        yield from (handler.name for handler in self._handlers.get(name, ()))
        if self.broker is not None:
            yield BROKER
        else:
            yield from self._elsewhere.get(name, ())

    def handlers_of(self, name: str) -> list[Callable[[Envelope], Awaitable[None]]]:
        """What the modules here do with a message of this name."""
        return [partial(self._handle, self._modules[one.module], one) for one in self._handlers.get(name, ())]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver during the block."""
        async with AsyncExitStack() as stack:
            if self.broker is not None:
                stack.push_async_callback(self.broker.stop)
                await self.broker.start()
            if self._elsewhere and self.broker is None:
                _log.warning(
                    "messages wait for modules that do not run here: where they share a database, `kernel relay` with "
                    "all modules delivers them, elsewhere MESSAGING_BROKER_URL",
                    subscribers=sorted(name for names in self._elsewhere.values() for name in names),
                )
            routes = {outbox: self._targets_of(outbox) for outbox in self.outboxes.values()}
            relay = Relay(routes, self._settings, self._tracing)
            await stack.enter_async_context(relay.running(self._purge_now_and_then, *self._listeners()))
            yield

    async def purge(self) -> int:
        """Remove what is completed and what was handled long ago; how many rows that were."""
        kept = self._settings
        completed_before = clock(-kept.keep_completed_days * _DAY_SECONDS)
        handled_before = clock(-kept.keep_handled_days * _DAY_SECONDS)
        purged = 0
        for module in self._modules.values():
            try:
                if (table := module.outbox) is not None:
                    is_old = and_(table.c.state == State.COMPLETED, table.c.finished_at < completed_before)
                    purged += await _remove(module.database, table.c.id, is_old)
                if (table := module.inbox) is not None:
                    purged += await _remove(module.database, table.c.message_id, table.c.handled_at < handled_before)
            except Exception as error:  # noqa: BLE001  # the next time will do, and the other modules can be purged
                _log.warning("old messages could not be purged", module=module.name, reason=repr(error))
        return purged

    async def _deliver(self, module: Correspondent, handler: Handler, delivery: Delivery) -> None:
        await self._handle_in_time(
            module, handler, delivery.envelope, self._settings.handler_timeout_seconds, is_first=delivery.attempt == 1
        )

    async def _handle_in_time(
        self, module: Correspondent, handler: Handler, envelope: Envelope, seconds: float, *, is_first: bool
    ) -> None:
        """Handle a message within so many seconds. Raises Outage, Failed, and what the handler raises."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._handle(module, handler, envelope, is_first=is_first)
        except Exception as error:
            if limit.expired():
                why = f"it was not done within {seconds:g} s (MESSAGING_HANDLER_TIMEOUT_SECONDS)"
                raise Failed(why) from error
            if await is_outage(error, module.database):
                raise Outage(f"{type(error).__name__}: {error}") from error
            raise

    async def _handle(
        self, module: Correspondent, handler: Handler, envelope: Envelope, *, is_first: bool = False
    ) -> None:
        assert module.inbox is not None  # noqa: S101  # for the type checker: discovery has seen to it
        await handler.handle(envelope, module.database, module.inbox, module.connection, is_first=is_first)

    async def check_broker(self) -> None:
        """Raises Degraded if the broker does not answer: what it is to carry waits meanwhile."""
        try:
            if self.broker is not None:
                await self.broker.check()
        except BrokerUnavailable as error:
            raise Degraded(str(error)) from error

    def _receive(self, broker: Broker, module: Correspondent) -> None:
        """Have the broker bring what the module subscribes to and what no module here tells. Raises HandlerError."""
        names = {handler.message.message_name() for handler in module.handlers}
        from_elsewhere = sorted(name for name in names if name.partition(".")[0] not in self._modules)
        if not from_elsewhere:
            return
        if module.name not in self.outboxes:
            raise HandlerError(
                f"modules/{module.name} has no outbox to keep what the broker brings ({from_elsewhere[0]}): add "
                '`class Outbox(OutboxTable, Base): __tablename__ = "outbox"` to its models.py, and write the migration'
            )
        broker.receive(module.name, from_elsewhere, partial(self._take, self.outboxes[module.name]))

    async def _take(self, outbox: Outbox, body: bytes) -> None:
        """Keep what the broker brings; from there it is delivered as what was published here."""
        try:
            envelope = Envelope.from_json(body)
        except ValueError as error:
            _log.error("what a broker brought is dropped", module=outbox.module, reason=str(error), body=body[:2000])
            return
        whom = [one.name for one in self._handlers.get(envelope.name, ()) if one.module == outbox.module]
        if not whom:
            _log.warning("nobody subscribes to it any more", module=outbox.module, message=envelope.name)
            return
        async with outbox.database.transaction() as session:
            await outbox.add(session, envelope, whom)

    async def _send(self, broker: Broker, delivery: Delivery) -> None:
        envelope = delivery.envelope
        await broker.send(envelope.to_json(), envelope.name, envelope.id)

    def _targets_of(self, outbox: Outbox) -> dict[str, Target]:
        """Who gets something from this outbox: those who are told by its module; itself, what a broker brought."""
        handlers = [one for of_name in self._handlers.values() for one in of_name]
        names = [
            one.name for one in handlers if outbox.module in {one.module, one.message.message_name().partition(".")[0]}
        ]
        return {name: self.targets[name] for name in (*names, BROKER) if name in self.targets}

    def _listeners(self) -> Iterator[Callable[[], Any]]:
        """One for each database in which there is an outbox."""
        by_url: dict[URL, list[Outbox]] = {}
        for outbox in self.outboxes.values():
            by_url.setdefault(outbox.database.placement.url, []).append(outbox)
        for url, outboxes in by_url.items():
            if url.get_backend_name() == "postgresql" and self._settings.listen:
                heard = partial(self._heard, outboxes)
                yield partial(listen, url, self._config, CHANNEL, heard, pause_seconds=self._settings.poll_seconds)

    def _heard(self, outboxes: Sequence[Outbox], module: str | None) -> None:
        """A module has published; or, without one, the connection was made ("") or lost (None)."""
        for outbox in outboxes:
            if not module:
                outbox.is_told = module is not None
            if module in {None, "", outbox.module}:
                outbox.is_due.set()

    async def _purge_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_PURGE_EVERY_SECONDS * random.uniform(0.5, 1))  # noqa: S311  # not all at once
            await self.purge()


async def _remove(database: Database, key: Any, condition: ColumnElement[bool]) -> int:
    """In small parts: others write here meanwhile."""
    part = select(key).where(condition).limit(_PURGED_AT_ONCE)
    statement = delete(key.table).where(key.in_(part), condition).returning(key)
    removed = 0
    while rows := await database.run(statement):
        removed += len(rows)
        if len(rows) < _PURGED_AT_ONCE:
            break
    return removed
