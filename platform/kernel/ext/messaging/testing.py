"""The fixture `messages`: publish and deliver messages without the module on the other side."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

from kernel.application import Application
from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.message import Message

_Published = TypeVar("_Published", bound=Message)
# A subscriber without a target: its rows stay for the test to read.
_TEST = "test"


class Messages:
    """The messages of one application under test."""

    def __init__(self, application: Application) -> None:
        self._bus = application.kernel.get(MessageBus)
        for outbox in self._bus.outboxes.values():
            outbox.subscribers_of = _and_the_test(outbox.subscribers_of)

    async def deliver(self, message: Message) -> None:
        """Let all handlers of the application handle a message, as if its module had published it.

        Raises what the handlers raise, and LookupError if there is none.
        """
        handlers = self._bus.handlers_of(message.message_name())
        if not handlers:
            raise LookupError(f"No handler here subscribes to {message.message_name()}.")
        for handle in handlers:
            await handle(Envelope.of(message))

    async def published(self, message: type[_Published]) -> list[_Published]:
        """Return the messages of this type that were published since the test began, in their order.

        Raises LookupError if the application has no outbox of their module.
        """
        name = message.message_name()
        outbox = self._bus.outboxes.get(name.partition(".")[0])
        if outbox is None:
            raise LookupError(f"The module that publishes {name} does not run here, or has no outbox.")
        columns = outbox.table.c
        mine = outbox.table.select().where(columns.subscriber == _TEST, columns.name == name).order_by(columns.id)
        async with outbox.database.read() as session:
            rows = (await session.execute(mine)).mappings().all()
        return [message.model_validate_json(row["payload"]) for row in rows]


@pytest.fixture
def messages(application: Application) -> Messages:
    """Messages that the application has published, and a way to deliver one to it."""
    return Messages(application)


def _and_the_test(known: Callable[[str], Iterable[str]]) -> Callable[[str], Iterable[str]]:
    return lambda name: (*known(name), _TEST)
