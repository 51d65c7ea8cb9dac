"""A process that takes a message and never completes it.

Arguments: the broker's URL, the prefix, the group, the name.
"""

import asyncio
import sys

from kernel.ext.messaging.brokers.broker import Broker


async def main(url: str, prefix: str, group: str, name: str) -> None:
    async def take(_: bytes) -> None:
        sys.stdout.write("taken\n")
        sys.stdout.flush()
        await asyncio.sleep(3600)

    broker = Broker(url, prefix=prefix, lease_seconds=3)
    broker.receive(group, {name}, take)
    await broker.start()
    await asyncio.sleep(3600)


asyncio.run(main(*sys.argv[1:]))
