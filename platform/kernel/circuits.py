"""What is known of each upstream: whether to ask it at all, whether to ask it again, and how many calls it may hold."""

import asyncio
import time
from collections import deque
from typing import Literal

State = Literal["closed", "open", "half-open"]

# The last attempts, none older than this. It opens when so many of them, and at least half, have failed.
_ATTEMPTS = 20
_WINDOW_SECONDS = 10.0
_LEAST_FAILURES = 5
# Nothing is tried again while more of them than these have failed: to ask an upstream in trouble three times as often
# keeps it there. An outage is so asked in vain three times more often than without, however long it is.
_MOST_FAILURES_TO_RETRY = 3


class Circuit:
    """A circuit breaker (M. Nygard, Release It!) with a bulkhead: for one origin, shared by all who ask it.

    While it is open nobody asks; after `open_seconds` one trial does, and its end decides.
    """

    def __init__(self, open_seconds: float, most_calls: int) -> None:
        # One who takes a place of them holds it until the answer is read: a slow upstream has no more than these.
        self.places = asyncio.Semaphore(most_calls)
        self._open_seconds = open_seconds
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_ATTEMPTS)
        self._opened_at: float | None = None
        self._is_tried = False

    @property
    def state(self) -> State:
        """Half-open: a trial is under way, or the next call will be one."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._is_tried or self._opens_in() <= 0 else "open"

    def admits(self) -> bool:
        """Whether to ask now. Who does says how it ended: `note`, or `forget` where it had no end."""
        if self._opened_at is None:
            return True
        if self._is_tried or self._opens_in() > 0:
            return False
        self._is_tried = True
        return True

    def note(self, *, ok: bool) -> None:
        """An attempt succeeded, or failed in a way that says something of the upstream."""
        now = time.monotonic()
        if self._opened_at is not None:
            self._is_tried = False
            self._opened_at = None if ok else now
            self._outcomes.clear()
        self._outcomes.append((now, ok))
        failures = self._failures(now)
        if self._opened_at is None and failures >= max(_LEAST_FAILURES, len(self._outcomes) / 2):
            self._opened_at = now

    def forget(self) -> None:
        """An attempt was given up by us, and says nothing."""
        self._is_tried = False

    def may_retry(self) -> bool:
        """Whether so few attempts have failed that another try helps."""
        return self._opened_at is None and self._failures(time.monotonic()) <= _MOST_FAILURES_TO_RETRY

    def _failures(self, now: float) -> int:
        while self._outcomes and now - self._outcomes[0][0] > _WINDOW_SECONDS:
            self._outcomes.popleft()
        return sum(not ok for _, ok in self._outcomes)

    def _opens_in(self) -> float:
        return (self._opened_at or 0) + self._open_seconds - time.monotonic()
