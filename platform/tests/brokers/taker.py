"""A function that takes messages from a broker, for tests."""

import asyncio
import time
from collections import Counter

from kernel.ext.messaging.brokers.broker import Broker, BrokerUnavailable

NAME = "images.image_deleted"


class Taker:
    """Records the messages that it took, and fails as often as requested."""

    def __init__(self, failures: int = 0) -> None:
        self.taken: Counter[bytes] = Counter()
        self.times: list[float] = []
        self._failures = failures

    async def __call__(self, body: bytes) -> None:
        self.times.append(time.monotonic())
        if len(self.times) <= self._failures:
            raise RuntimeError("not now")
        self.taken[body] += 1

    def __len__(self) -> int:
        """Return the number of different messages."""
        return len(self.taken)


async def until_answering(broker: Broker, within: float = 40) -> None:
    """Wait until a broker is connected."""
    async with asyncio.timeout(within):
        while True:
            try:
                await broker.check()
            except BrokerUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
