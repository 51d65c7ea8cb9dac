"""Record work as part of a trace, whichever extension collects traces. Without one, nothing is recorded."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol


class Tracer(Protocol):
    """Makes spans of work that no HTTP request started, for instance the delivery of a message."""

    def span(
        self, name: str, kind: Literal["consumer", "producer"], attributes: Mapping[str, str], parent: Mapping[str, str]
    ) -> AbstractContextManager[None]:
        """Record the block as a span below `parent`: the headers of W3C Trace Context, as the parent carried them."""


class NoTracer:
    """Records nothing."""

    def span(
        self, name: str, kind: Literal["consumer", "producer"], attributes: Mapping[str, str], parent: Mapping[str, str]
    ) -> AbstractContextManager[None]:
        return nullcontext()
