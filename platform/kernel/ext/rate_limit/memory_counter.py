"""The counts of limits, kept in this process. Imported where there is a limit."""

import time

from limits.aio.storage import MemoryStorage

# What nobody asks for any more is looked for so often.
_SWEEP_SECONDS = 10.0
# Some 20 MB. Beyond it those are forgotten that have been counted for longest.
_MOST = 100_000


class Counts(MemoryStorage):
    """The library's own, but that one looks through all of them at every hit: 0.65 ms with 10,000 callers."""

    def __init__(self) -> None:
        super().__init__()
        self._swept_at = 0.0

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count, and from time to time forget."""
        now = time.time()
        if now - self._swept_at > _SWEEP_SECONDS:
            self._swept_at = now
            for name in [name for name, end in self.expirations.items() if end <= now]:
                await self.clear(name)
        if await self.get(key) == 0:
            self.expirations[key] = now + expiry
            if len(self.expirations) > _MOST:
                await self.clear(next(iter(self.expirations)))
        self.storage[key] += amount
        return self.storage[key]

    async def decr(self, key: str, amount: int = 1) -> int:
        """Give back what was one too many."""
        self.storage[key] = max(await self.get(key) - amount, 0)
        return self.storage[key]

    async def give_back(self, key: str, window: int) -> None:
        """Take back the last hit."""
        await self.decr(self.sliding_window_keys(key, window, time.time())[1])
