"""Find messages that cannot be delivered, on the side of the publisher and of the subscriber, and say what to set."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import structlog
from pydantic import BaseModel, TypeAdapter

from kernel.ext.channel.channel import ChannelError, InternalChannel
from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.operations import Waiting, waiting
from kernel.ext.messaging.outbox import BROKER
from kernel.ext.messaging.settings import MessagingSettings
from kernel.health import Degraded

_log = structlog.get_logger("kernel.ext.messaging")

# The service of the internal channel at which subscribers ask whether they get their messages.
SERVICE = "subscriptions"
_ASK_SECONDS = 3.0
_LOOK_SECONDS = 5.0
# For how many checks the report of a subscriber is valid.
_LOOKS_BELIEVED = 6
# A message that is due for this many polls and is not claimed: no relay serves it.
_OVERDUE_POLLS = 15

Problems = dict[str, str]
"""The reason why messages are not delivered, by subscriber."""

PROBLEMS: TypeAdapter[Problems] = TypeAdapter(Problems)


class Subscriptions(BaseModel):
    """The question of a subscriber to a publisher in another process: do these handlers get these messages?"""

    # The message's name, by subscriber: `events.forget_image: images.image_deleted`.
    subscribers: dict[str, str]
    # The broker from which the asking process receives messages: its kind and the prefix.
    broker: tuple[str, str] | None


class DeliveryWatch:
    """Checks periodically whether the messages of this process, and those for it, are delivered."""

    def __init__(
        self,
        bus: MessageBus,
        settings: MessagingSettings,
        channel: InternalChannel | None = None,
        publishers: Collection[str] = (),
    ) -> None:
        """`publishers` are the modules elsewhere to whose messages this process subscribes."""
        self._bus, self._settings, self._channel, self._publishers = bus, settings, channel, publishers
        # Whether this process delivers.
        self._relays = False
        self._own: Problems = {}
        self._of_others: dict[str, Problems] = {}
        # The answers to subscribers in other processes, with their time.
        self._answered: dict[str, tuple[str, float]] = {}
        self._logged: Problems = {}

    async def check(self) -> None:
        """Raise Degraded with all problems of the last check."""
        if found := self.problems():
            raise Degraded(" ".join(dict.fromkeys(found.values())))

    def problems(self) -> Problems:
        """Return the problems of this process and those that other processes report."""
        oldest = time.monotonic() - _LOOKS_BELIEVED * self._settings.check_seconds
        answered = {one: problem for one, (problem, since) in self._answered.items() if since >= oldest}
        of_others = {one: problem for found in self._of_others.values() for one, problem in found.items()}
        return answered | of_others | self._own

    @asynccontextmanager
    async def running(self, *, relays: bool) -> AsyncIterator[None]:
        """Check during the block. `relays`: whether this process delivers."""
        self._relays = relays
        await self._look_here()
        is_alone = not self._publishers and not self._bus.elsewhere.is_known and relays
        if is_alone and not self._own:
            yield  # all modules are here, and each waiting message has a handler
            return
        is_over = asyncio.Event()
        task = asyncio.create_task(self._keep_looking(is_over))
        try:
            yield
        finally:
            is_over.set()
            # Cancelling a query would cost its connection.
            _, late = await asyncio.wait([task], timeout=_LOOK_SECONDS)
            for one in late:
                one.cancel()

    async def look(self) -> None:
        """Check now, in this process and at the publishers elsewhere."""
        await self._look_here()
        if self._channel is not None:
            await asyncio.gather(*(self._ask(self._channel, name) for name in self._publishers))
        self._log_new()

    async def _look_here(self) -> None:
        try:
            self._own = await self._undelivered()
        except Exception as error:  # noqa: BLE001  # the check of the database reports it
            _log.debug("waiting messages could not be read", reason=repr(error))
        self._log_new()

    def _log_new(self) -> None:
        found = self.problems()
        for subscriber, problem in found.items():
            if self._logged.get(subscriber) != problem:
                _log.warning("messages are not delivered", subscriber=subscriber, reason=problem)
        self._logged = found

    async def answer(self, module: str, _name: str, body: bytes) -> bytes:
        """Answer a process that subscribes to messages of `module`: which of its handlers do not get them, and why.

        Raises ValidationError for an invalid body.
        """
        subscriptions = Subscriptions.model_validate_json(body)
        found = {}
        for subscriber, name in subscriptions.subscribers.items():
            problem = self._problem_of(module, subscriber, name, subscriptions.broker)
            if problem is not None:
                found[subscriber] = problem
                self._answered[subscriber] = (problem, time.monotonic())
            else:
                self._answered.pop(subscriber, None)
        return PROBLEMS.dump_json(found)

    def _problem_of(self, module: str, subscriber: str, name: str, broker: tuple[str, str] | None) -> str | None:
        bus, there = self._bus, subscriber.partition(".")[0]
        if module not in bus.outboxes:
            return f"{module} has no outbox in the process that answers at {module.upper()}_URL."
        if bus.broker is not None:
            if broker == bus.broker.identity:
                return None
            return (
                f"{module} sends {name} to {_said(bus.broker.identity)}, and {there} takes from {_said(broker)}: "
                "set the same MESSAGING_BROKER_URL and MESSAGING_BROKER_PREFIX in both processes."
            )
        if subscriber in self._own:
            return self._own[subscriber]
        known = bus.subscribers(name)
        if subscriber in known or there in known:
            return None if bus.outbound is None else bus.outbound.outages.get(there)
        return (
            f"{module} keeps no {name} for {subscriber}, of which its code base does not know: set "
            f"MESSAGING_SUBSCRIBERS={there} and {there.upper()}_URL in the process of {module}, or "
            "MESSAGING_BROKER_URL in both."
        )

    async def _keep_looking(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            await self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), self._settings.check_seconds)

    async def _ask(self, channel: InternalChannel, publisher: str) -> None:
        """Ask a publisher in another process whether it delivers to the handlers here."""
        bus = self._bus
        subscribers = {
            handler.name: name
            for name, handlers in bus.handlers.items()
            for handler in handlers
            if name.partition(".")[0] == publisher
        }
        broker = None if bus.broker is None else bus.broker.identity
        try:
            body = Subscriptions(subscribers=subscribers, broker=broker).model_dump_json().encode()
            reply = await channel.post(SERVICE, publisher, "", body, _ASK_SECONDS)
            self._of_others[publisher] = PROBLEMS.validate_json(reply.body) if reply.status == 200 else {}
        except (ChannelError, ValueError):
            self._of_others.pop(publisher, None)  # the comparison of its contracts reports that it does not answer

    async def _undelivered(self) -> Problems:
        bus = self._bus
        found: Problems = {}
        if self._relays:
            for name, subscribers in bus.elsewhere.subscribers.items():
                found |= {one: self._no_way(name, one) for one in subscribers if one not in bus.targets}
        overdue = _OVERDUE_POLLS * self._settings.poll_seconds
        expected = set()
        for outbox in bus.outboxes.values():
            served = bus.targets_of(outbox) if self._relays else ()
            for one in await waiting(outbox, overdue):
                expected.add(one.subscriber.partition(".")[0])
                problem = None
                if one.subscriber not in served:
                    problem = self._why_it_waits(outbox.module, one)
                elif one.overdue and not bus.reads(one.subscriber, one.newest):
                    problem = (
                        f"{one.messages} message(s) of {outbox.module} wait for {one.subscriber}, some in version "
                        f"{one.newest}, which the code of this process cannot read: deploy the newer code here, too."
                    )
                if problem is not None:
                    found[one.subscriber] = problem
        for module, outage in bus.outbound.outages.items() if bus.outbound is not None else ():
            if outage is not None and module in expected:
                found[module] = f"Messages wait for {module}: {outage}."
        return found

    def _why_it_waits(self, module: str, one: Waiting) -> str | None:
        many = f"{one.messages} message(s) of {module} wait for {one.subscriber}"
        if not self._relays:
            if not one.overdue or one.in_work:
                return None
            return (
                f"{many}, and no relay delivers them: run `kernel relay` with {module} among its modules "
                f"(ENABLED_MODULES, where {module.upper()}_URL is set), or set MESSAGING_RELAY=true."
            )
        if one.subscriber == BROKER:
            return f"{many}: set MESSAGING_BROKER_URL again, with which they were published."
        there, _, function = one.subscriber.partition(".")
        if any(one.subscriber in found for found in self._bus.elsewhere.subscribers.values()):
            return f"{many}. {self._no_way(f'What {module} publishes', one.subscriber)}"
        what = f"{there} has no handler {function}" if function else f"{there} is no module elsewhere"
        return (
            f"{many}: {what}. If it was renamed, `kernel messages move {one.subscriber} <new name>`; if it is gone for "
            f"good, `kernel messages purge --subscriber {one.subscriber}`."
        )

    def _no_way(self, what: str, subscriber: str) -> str:
        module = subscriber.partition(".")[0]
        address = f"set {module.upper()}_URL to the address of the process in which {module} runs"
        if self._bus.outbound is None:
            address = f"use the extension remote and {address}"
        return (
            f"{what} is not delivered to {subscriber}: {address}, or MESSAGING_BROKER_URL in both processes; or set "
            "MESSAGING_RELAY=false here if a `kernel relay` with both modules delivers."
        )


def _said(broker: tuple[str, str] | None) -> str:
    return "no broker" if broker is None else f"a broker ({broker[0]}) with the prefix {broker[1]}"
