"""What a module tells, and what it does when it is told, without the module on the other side."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from kernel.application import Application
from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.message import Message

_Told = TypeVar("_Told", bound=Message)
# Who is never served: the rows stay for the test to see.
_TEST = "test"


class Messages:
    """The messages of one application under test."""

    def __init__(self, application: Application) -> None:
        self._bus = application.kernel.get(MessageBus)
        for outbox in self._bus.outboxes.values():
            outbox.subscribers_of = _and_the_test(outbox.subscribers_of)

    async def tell(self, message: Message) -> None:
        """Have all handlers of the application handle it, as if its module had published it. Raises what they raise.

        Raises LookupError if none here subscribes to it.
        """
        handlers = self._bus.handlers_of(message.message_name())
        if not handlers:
            raise LookupError(f"No handler here subscribes to {message.message_name()}.")
        for handle in handlers:
            await handle(Envelope.of(message))

    async def told(self, message: type[_Told]) -> list[_Told]:
        """What was published of this type since the test began, in its order. Raises LookupError without an outbox."""
        name = message.message_name()
        outbox = self._bus.outboxes.get(name.partition(".")[0])
        if outbox is None:
            raise LookupError(f"The module that publishes {name} does not run here, or has no outbox.")
        columns = outbox.table.c
        mine = outbox.table.select().where(columns.subscriber == _TEST, columns.name == name).order_by(columns.id)
        async with outbox.database.read() as session:
            rows = (await session.execute(mine)).mappings().all()
        return [message.model_validate_json(row["payload"]) for row in rows]


def _and_the_test(known: Callable[[str], Iterable[str]]) -> Callable[[str], Iterable[str]]:
    return lambda name: (*known(name), _TEST)
