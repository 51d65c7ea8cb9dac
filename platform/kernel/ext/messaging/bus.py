"""Route the messages of one process: outboxes, subscribers, and the targets of deliveries."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.engine import URL

from kernel.database import Database
from kernel.ext.messaging.brokers.broker import Broker, BrokerUnavailable
from kernel.ext.messaging.brokers.connection import OnBroker
from kernel.ext.messaging.envelope import Envelope, PublishError
from kernel.ext.messaging.handlers import Handler, HandlerError
from kernel.ext.messaging.inbound import Inbound, ModuleEndpoint
from kernel.ext.messaging.listen import listen
from kernel.ext.messaging.message import Message
from kernel.ext.messaging.outbound import Outbound
from kernel.ext.messaging.outbox import BROKER, CHANNEL, Delivery, Outbox, Wanted
from kernel.ext.messaging.relay import Relay, Target
from kernel.ext.messaging.settings import MessagingSettings
from kernel.ext.messaging.tables import State, clock
from kernel.health import Degraded
from kernel.settings import DatabaseConfig
from kernel.tracing import Tracer

_log = structlog.get_logger("kernel.ext.messaging")

_PURGE_EVERY_SECONDS = 600.0
_PURGED_AT_ONCE = 1000
_DAY_SECONDS = 86_400.0
_SEND_SECONDS = 5.0


WITHOUT_SUBSCRIBERS = (
    "has no subscriber that this process knows of, and would be lost. If a module outside of this code base "
    "subscribes, set MESSAGING_SUBSCRIBERS=<module> and <MODULE>_URL=<its address>, or MESSAGING_BROKER_URL. If none "
    "does, name the message in MESSAGING_WITHOUT_SUBSCRIBERS"
)


WITHOUT_CHANNEL = (
    "names a module in another process to which messages are delivered, but nothing connects the processes: use the "
    "extension remote, or set MESSAGING_BROKER_URL in both processes"
)


@dataclass(frozen=True)
class Elsewhere:
    """The modules in other processes that can subscribe to messages of this process."""

    # Their handlers in this code base, by the message's name: `images.image_deleted: [events.forget_image]`.
    subscribers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    # The addresses of those that can subscribe to messages of this process.
    addresses: Mapping[str, str] = field(default_factory=dict)
    # Those of them whose handlers are not in this code base: each gets every message and handles what it subscribes to.
    unread: Sequence[str] = ()

    @property
    def is_known(self) -> bool:
        """Return True if a subscriber is, or can be, in another process."""
        return bool(self.subscribers or self.addresses)


class MessageBus:
    """The outboxes of the modules here, and the targets of their messages."""

    def __init__(
        self,
        modules: Sequence[ModuleEndpoint],
        settings: MessagingSettings,
        database: DatabaseConfig,
        elsewhere: Elsewhere,
        outbound: Outbound | None,
        tracer: Tracer,
    ) -> None:
        """`outbound` delivers to other processes; None without a channel between processes."""
        self._settings, self._config, self._tracer = settings, database, tracer
        self._modules = {module.name: module for module in modules}
        self.elsewhere, self.outbound = elsewhere, outbound
        # By the message's name.
        self.handlers: dict[str, list[Handler]] = {}
        self.outboxes: dict[str, Outbox] = {}
        self.targets: dict[str, Target] = {}
        self.inbound = Inbound(modules, settings.handler_timeout_seconds, tracer)
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
                self.outboxes[module.name] = module.database.values[Outbox] = outbox
            for handler in module.handlers:
                message, name = handler.message, handler.message.message_name()
                if names.setdefault(name, message) is not message:
                    first, second = (f"{one.__module__}.{one.__name__}" for one in (names[name], message))
                    raise HandlerError(f"{first} and {second} have one name on the wire, {name}: rename one of them")
                self.handlers.setdefault(name, []).append(handler)
                wanted = Wanted(name, message.message_version)
                # SQLite has one writer: waiting for it would use up the time limit of a handler.
                on_sqlite = module.database.writer.dialect.name == "sqlite"
                deliver = partial(self._deliver, handler)
                self.targets[handler.name] = Target(wanted, deliver, at_once=1 if on_sqlite else sys.maxsize)
        self.broker: Broker | None = None
        if settings.broker_url is not None:
            self.broker = Broker(
                settings.broker_url.get_secret_value(),
                prefix=settings.broker_prefix,
                send_timeout_seconds=min(_SEND_SECONDS, settings.handler_timeout_seconds),
                lease_seconds=settings.handler_timeout_seconds,
            )
            for module in modules:
                self._receive(self.broker, module)
        self.targets |= dict(self._targets_elsewhere())

    def _targets_elsewhere(self) -> Iterator[tuple[str, Target]]:
        """Yield the subscribers in other processes: all through the broker, else those with an address.

        With a broker, rows that were written before it was configured go to it, too.
        """
        by_name = [(name, one) for name, found in self.elsewhere.subscribers.items() for one in found]
        if self.broker is not None:
            send = partial(self._send, self.broker)
            sent = partial(Target, deliver=send, is_open=self.broker.is_connected, sends=True)
            yield BROKER, sent(Wanted())
            yield from ((one, sent(Wanted(name))) for name, one in by_name)
            yield from ((module, sent(Wanted())) for module in self.elsewhere.addresses)
            return
        if self.outbound is None:
            return
        for name, one in by_name:
            module, _, function = one.partition(".")
            if module in self.elsewhere.addresses:
                yield one, Target(Wanted(name), partial(self.outbound.post, module, function), sends=True)
        for module in self.elsewhere.addresses:
            yield module, Target(Wanted(), partial(self.outbound.post, module, ""), sends=True)

    @property
    def is_used(self) -> bool:
        """Return True if a module of this process publishes messages or has handlers."""
        return bool(self.outboxes or self.handlers)

    def subscribers_of(self, name: str) -> Iterator[str]:
        """Yield the subscribers of a message that is published, each of which gets a row.

        Raises PublishError for a message without any, outside of LOCAL and unless the settings say that it has none.
        """
        found = self.subscribers(name)
        if not found and name not in self._settings.without_subscribers and not self._settings.is_local:
            raise PublishError(f"{name} {WITHOUT_SUBSCRIBERS}.")
        yield from found

    def lost(self, names: Iterable[str]) -> list[str]:
        """Return those of these messages that have no subscriber, although the settings do not say so."""
        without = self._settings.without_subscribers
        return [name for name in names if name not in without and not any(self.subscribers(name))]

    def subscribers(self, name: str) -> list[str]:
        """Return the subscribers of a message: handlers, modules elsewhere, the broker."""
        here = [handler.name for handler in self.handlers.get(name, ())]
        if self.broker is not None:
            return [*here, BROKER]
        return [*here, *self.elsewhere.subscribers.get(name, ()), *self.elsewhere.unread]

    def reads(self, subscriber: str, version: int) -> bool:
        """Return whether a subscriber is served here and its code can read messages of a version."""
        target = self.targets.get(subscriber)
        return target is not None and (target.wanted.newest is None or version <= target.wanted.newest)

    def way_of(self, subscriber: str) -> str:
        """Describe how messages reach a subscriber."""
        if subscriber not in self.targets:
            return "nothing here"
        module = subscriber.partition(".")[0]
        if any(one.name == subscriber for found in self.handlers.values() for one in found):
            return "this process"
        return "the broker" if self.broker is not None else self.elsewhere.addresses[module]

    def handlers_of(self, name: str) -> list[Callable[[Envelope], Awaitable[None]]]:
        """Return the handlers of this process for messages of a name."""
        return [partial(self.inbound.handle, one) for one in self.handlers.get(name, ())]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver during the block."""
        async with AsyncExitStack() as stack:
            if self.broker is not None:
                stack.push_async_callback(self.broker.stop)
                await self.broker.start()
            routes = {outbox: self.targets_of(outbox) for outbox in self.outboxes.values()}
            relay = Relay(routes, self._settings, self._tracer)
            await stack.enter_async_context(relay.running(self._purge_now_and_then, *self._listeners()))
            yield

    async def purge(self) -> int:
        """Delete old rows of outboxes and inboxes. Return how many."""
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
            except Exception as error:  # noqa: BLE001  # the next run tries again, and the other modules can be purged
                _log.warning("old messages could not be purged", module=module.name, reason=repr(error))
        return purged

    async def _deliver(self, handler: Handler, delivery: Delivery) -> None:
        await self.inbound.handle_in_time(handler, delivery.envelope, is_first=delivery.attempt == 1)

    async def check_broker(self) -> None:
        """Raise Degraded if the broker does not answer; messages for it wait until it does."""
        try:
            if self.broker is not None:
                await self.broker.check()
        except BrokerUnavailable as error:
            raise Degraded(str(error)) from error

    async def on_broker(self, published: Iterable[str]) -> list[OnBroker]:
        """Count what waits on the broker of the messages `published` here and of those handled here.

        Raises BrokerUnavailable. Without a broker nothing waits there. For a process that does not deliver.
        """
        if self.broker is None:
            return []
        names = {*published, *self.handlers, *self.elsewhere.subscribers}
        subscribers = [one for found in self.elsewhere.subscribers.values() for one in found]
        groups = {one.partition(".")[0] for one in subscribers} | {*self._modules}
        assert self._settings.broker_url is not None  # noqa: S101  # for the type checker: there is a broker
        looking = Broker(self._settings.broker_url.get_secret_value(), prefix=self._settings.broker_prefix)
        await looking.start()
        try:
            return await looking.backlog(sorted(names), sorted(groups))
        finally:
            await looking.stop()

    def _receive(self, broker: Broker, module: ModuleEndpoint) -> None:
        """Receive from the broker the messages of modules in other processes. Raises HandlerError."""
        names = {handler.message.message_name() for handler in module.handlers}
        from_elsewhere = sorted(name for name in names if name.partition(".")[0] not in self._modules)
        if not from_elsewhere:
            return
        if module.name not in self.outboxes:
            raise HandlerError(
                f"modules/{module.name} has no outbox to store messages of the broker ({from_elsewhere[0]}): add "
                '`class Outbox(OutboxTable, Base): __tablename__ = "outbox"` to its models.py, and write the migration'
            )
        broker.receive(module.name, from_elsewhere, partial(self._take, self.outboxes[module.name]))

    async def _take(self, outbox: Outbox, body: bytes) -> None:
        """Store a message from the broker. It is then delivered like one that was published here."""
        try:
            envelope = Envelope.from_json(body)
        except ValueError as error:
            _log.error(
                "invalid message from the broker dropped", module=outbox.module, reason=str(error), body=body[:2000]
            )
            return
        subscribers = [one.name for one in self.handlers.get(envelope.name, ()) if one.module == outbox.module]
        if not subscribers:
            _log.warning("message from the broker has no subscriber here", module=outbox.module, message=envelope.name)
            return
        async with outbox.database.transaction() as session:
            await outbox.add(session, envelope, subscribers)

    async def _send(self, broker: Broker, delivery: Delivery) -> None:
        envelope = delivery.envelope
        await broker.send(envelope.to_json(), envelope.name, envelope.id)

    def targets_of(self, outbox: Outbox) -> dict[str, Target]:
        """Return the targets of an outbox: the subscribers of its module, and its handlers of messages of a broker."""
        handlers = [one for found in self.handlers.values() for one in found]
        names = [
            one.name for one in handlers if outbox.module in {one.module, one.message.message_name().partition(".")[0]}
        ]
        of_others = [
            one
            for name, found in self.elsewhere.subscribers.items()
            for one in found
            if name.partition(".")[0] == outbox.module
        ]
        wanted = (*names, *of_others, *self.elsewhere.addresses, BROKER)
        return {name: self.targets[name] for name in wanted if name in self.targets}

    def _listeners(self) -> Iterator[Callable[[], Any]]:
        """Yield a listener for each PostgreSQL database with an outbox."""
        by_url: dict[URL, list[Outbox]] = {}
        for outbox in self.outboxes.values():
            by_url.setdefault(outbox.database.placement.direct_url, []).append(outbox)
        for url, outboxes in by_url.items():
            if url.get_backend_name() == "postgresql" and self._settings.listen:
                heard = partial(self._heard, outboxes)
                yield partial(listen, url, self._config, CHANNEL, heard, pause_seconds=self._settings.poll_seconds)

    def _heard(self, outboxes: Sequence[Outbox], module: str | None) -> None:
        """Wake the outboxes: a module has published, or the connection was made ("") or lost (None)."""
        for outbox in outboxes:
            if not module:
                outbox.is_notified = module is not None
            if module in {None, "", outbox.module}:
                outbox.is_due.set()

    async def _purge_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_PURGE_EVERY_SECONDS * random.uniform(0.5, 1))  # noqa: S311  # not all at once
            await self.purge()


async def _remove(database: Database, key: Any, condition: ColumnElement[bool]) -> int:
    """Delete in small parts, so that other transactions can write in between."""
    part = select(key).where(condition).limit(_PURGED_AT_ONCE)
    statement = delete(key.table).where(key.in_(part), condition).returning(key)
    removed = 0
    while rows := await database.run(statement):
        removed += len(rows)
        if len(rows) < _PURGED_AT_ONCE:
            break
    return removed
