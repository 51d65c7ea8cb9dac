"""Numbers that go up and down: extensions contribute them, and an extension for metrics publishes them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Gauge(NamedTuple):
    """One metric: its name, what it means, the names of its labels, and a number for each row of label values."""

    name: str
    text: str
    labels: Sequence[str]
    rows: Sequence[tuple[Sequence[str], float]]


class GaugeSource(Protocol):
    """Contributes gauges: `builder.gauges.append(source)`."""

    def gauges(self) -> Iterable[Gauge]:
        """Return the numbers as they are known now, without waiting."""

    async def refresh(self) -> None:
        """Ask other systems for the numbers. Called before `gauges`, with a deadline, and not for every scrape."""
