import asyncio

from structlog.contextvars import get_contextvars

from kernel.ext.remote.deadline import seconds_left
from modules.prices.contract import Price, Prices, SoldOut, TooMany

DONE = []
SEEN = []


class Answers(Prices):
    def __init__(self, session):
        self.session = session

    async def of(self, thing, amount=2):
        DONE.append(("of", thing, amount))
        SEEN.append(get_contextvars())
        return Price(cents=3 * amount)

    async def largest(self):
        return None

    async def echo(self, value, /, *, also=()):
        return [value, *also]

    async def change(self, thing, price):
        DONE.append(("change", thing, price.cents))

    async def book(self, thing, idempotency_key):
        DONE.append(("book", thing, idempotency_key))
        return len(DONE)

    async def fail(self, how):
        DONE.append(("fail", how))
        match how:
            case "too many":
                raise TooMany(limit=3, of=Price(cents=1))
            case "sold out":
                raise SoldOut
            case "lie":
                return 3
        raise KeyError("secret of prices")

    async def sleep(self, seconds):
        DONE.append(("began",))
        left = seconds_left(1000)
        await asyncio.sleep(seconds)
        DONE.append(("slept",))
        return left
