"""The backlog of the outboxes as gauges."""

from collections import Counter
from collections.abc import Collection, Iterator

from kernel.ext.messaging.operations import Backlog, backlog
from kernel.ext.messaging.outbox import Outbox
from kernel.ext.messaging.tables import State
from kernel.gauges import Gauge


class BacklogGauges:
    """The number and age of the messages that wait in the outboxes of this process."""

    def __init__(self, outboxes: Collection[Outbox]) -> None:
        self._outboxes = outboxes
        self._backlog: list[Backlog] = []

    async def refresh(self) -> None:
        """Read the backlog. After a failure no number is reported rather than an old one."""
        try:
            self._backlog = [row for outbox in self._outboxes for row in await backlog(outbox)]
        except BaseException:
            self._backlog = []
            raise

    def gauges(self) -> Iterator[Gauge]:
        messages: Counter[tuple[str, str]] = Counter()
        oldest = {outbox.module: 0.0 for outbox in self._outboxes}
        for row in self._backlog:
            messages[row.module, row.state.value] += row.messages
            if row.state is not State.ABANDONED:
                oldest[row.module] = max(oldest[row.module], row.oldest_seconds)
        yield Gauge(
            "messages", "Messages that are not delivered yet, or abandoned.", ("module", "state"), [*messages.items()]
        )
        yield Gauge(
            "messages_oldest_seconds",
            "The age of the oldest message that is not delivered.",
            ("module",),
            [((module,), age) for module, age in oldest.items()],
        )
