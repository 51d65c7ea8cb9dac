"""The state of each upstream: whether to call it, whether to retry, and how many calls may run at once."""

import asyncio
import time
from collections import deque
from typing import Literal

State = Literal["closed", "open", "half-open"]

# The circuit opens if this many of the last calls, and at least half of them, have failed. Older calls do not count.
_CALLS = 20
_WINDOW_SECONDS = 10.0
_LEAST_FAILURES = 5
# Retrying every failed call twice would keep an overloaded upstream down: in the long run one call in five is retried.
# The rest is for a restart that drops all connections at once (as in the retry budgets of Finagle and Envoy).
_RETRIES_PER_CALL = 0.2
_FIRST_RETRIES, _MOST_RETRIES = 10.0, 50.0


class Circuit:
    """A circuit breaker (M. Nygard, Release It!) with a budget of retries and a bulkhead, for one origin.

    While the circuit is open, no call is made. After `open_seconds` one call is made, and its result decides. Calls
    that were in progress when the circuit opened do not count, because they may end long after the upstream has
    recovered.
    """

    def __init__(self, open_seconds: float, most_calls: int) -> None:
        # A call holds one of these until its answer is read, so that a slow upstream cannot use the whole pool.
        self.places = asyncio.Semaphore(most_calls)
        self._open_seconds = open_seconds
        self._ends: deque[tuple[float, bool]] = deque(maxlen=_CALLS)
        self._retries = _FIRST_RETRIES
        self._opened_at: float | None = None
        self._is_tried = False
        self._epoch = 0  # The number of times that it has opened.

    @property
    def state(self) -> State:
        """Return the state. Half-open: a trial is in progress, or the next call will be one."""
        if self._opened_at is None:
            return "closed"
        return "open" if self.opens_in() > 0 else "half-open"

    def opens_in(self) -> float:
        """Return for how many seconds it stays open."""
        return 0 if self._opened_at is None else max(0.0, self._opened_at + self._open_seconds - time.monotonic())

    def admits(self) -> int | None:
        """Return None if the circuit is open, else a number with which the call reports its end: `note` or `forget`."""
        if self._opened_at is not None:
            if self._is_tried or self.opens_in() > 0:
                return None
            self._is_tried = True
        self._retries = min(_MOST_RETRIES, self._retries + _RETRIES_PER_CALL)
        return self._epoch

    def note(self, epoch: int, *, ok: bool) -> None:
        """Record the end of a call: a success, or a failure of the upstream."""
        if epoch != self._epoch:
            return
        now = time.monotonic()
        if self._opened_at is None:
            self._ends.append((now, ok))
            while now - self._ends[0][0] > _WINDOW_SECONDS:
                self._ends.popleft()
            is_failing = sum(not ok for _, ok in self._ends) >= max(_LEAST_FAILURES, len(self._ends) / 2)
        else:
            self._opened_at, is_failing = None, not ok
        if is_failing:
            self._opened_at, self._is_tried = now, False
            self._epoch += 1
            self._ends.clear()

    def forget(self, epoch: int) -> None:
        """Record that the caller gave up a call, which says nothing about the upstream."""
        if epoch == self._epoch:
            self._is_tried = False

    def takes_retry(self) -> bool:
        """Return whether a call may be retried, and take the retry from the budget."""
        if self._opened_at is not None or self._retries < 1:
            return False
        self._retries -= 1
        return True
