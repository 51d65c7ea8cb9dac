"""A shop that asks for prices in another process: the real applications, and a socket between them that can fail."""

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2

from kernel.application import Application, create_app
from kernel.ext.remote.extension import Remote
from kernel.testing import project_for
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, HttpServer, Reply
from tests.core.project import imported_alone, write_project

SECRET = "0123456789abcdef0123456789abcdef"

CONTRACT = '''
from __future__ import annotations
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal, NamedTuple
from uuid import UUID
from pydantic import BaseModel
from kernel import Contract, ContractError, safe

class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"

class Place(NamedTuple):
    row: int
    seat: str

class Price(BaseModel, frozen=True):
    """In cents."""
    cents: int
    words: tuple[str, ...] = ()

class Everything(BaseModel, frozen=True):
    price: Price
    many: dict[str, list[Price]]
    amount: Decimal
    when: datetime
    day: date
    at: time
    lasting: timedelta
    who: UUID
    colour: Colour
    place: Place
    choice: Literal["a", 1]
    tags: frozenset[int]
    maybe: float | None
    inside: Everything | None = None

class TooMany(ContractError):
    """There are not so many."""
    limit: int
    of: Price

class SoldOut(ContractError):
    """Nothing is left."""

class Prices(Contract):
    """What things cost."""
    @safe
    async def of(self, thing: str, amount: int = 1) -> Price: raise NotImplementedError
    @safe
    async def largest(self) -> Price | None: raise NotImplementedError
    @safe
    async def echo(self, value: Everything, /, *, also: list[Everything | int] = []) -> list[Everything | int]:
        raise NotImplementedError
    async def change(self, thing: str, price: Price) -> None: raise NotImplementedError
    async def book(self, thing: str, idempotency_key: str) -> int: raise NotImplementedError
    @safe
    async def fail(self, how: str) -> None: raise NotImplementedError
    @safe
    async def sleep(self, seconds: float) -> float: raise NotImplementedError
'''
SERVICE = """
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
            case "too many": raise TooMany(limit=3, of=Price(cents=1))
            case "sold out": raise SoldOut()
            case "lie": return 3
        raise KeyError("secret of prices")
    async def sleep(self, seconds):
        DONE.append(("began",))
        left = seconds_left(1000)
        await asyncio.sleep(seconds)
        DONE.append(("slept",))
        return left
"""
ROUTER = """
from typing import Annotated
from fastapi import APIRouter
from kernel import public, use
from modules.prices.contract import Prices
router = APIRouter(dependencies=[public])

@router.get("/{thing}")
async def price(thing: str, prices: Annotated[Prices, use(Prices)]) -> int:
    return (await prices.of(thing)).cents
"""
FILES = {
    "prices/contract.py": CONTRACT,
    "prices/service.py": SERVICE,
    "prices/module.py": "from kernel import Module\nfrom modules.prices.contract import Prices\n"
    "from modules.prices.service import Answers\nmodule = Module(owner='team', provides={Prices: Answers})\n",
    "shop/router.py": ROUTER,
    "shop/module.py": "from kernel import Module\nmodule = Module(owner='team', depends_on={'prices'})\n",
}


@dataclass
class Sides:
    """Both applications, started. What was asked over the socket is in `wire.calls`, what was done in `done`."""

    caller: Application
    callee: Application
    # Talks to the caller as its users do.
    shop: httpx2.AsyncClient
    wire: HttpServer
    # The contract as the caller has it, its file, and the file of the answers.
    prices: Any
    contract: Any
    service: Any

    @property
    def done(self) -> list[tuple[Any, ...]]:
        done: list[tuple[Any, ...]] = self.service.DONE
        return done


Forward = Callable[[Call], Awaitable[Reply | Drop]]
Between = Callable[[Call, Forward], Awaitable[Reply | Drop]]


async def plainly(call: Call, forward: Forward) -> Reply | Drop:
    return await forward(call)


@asynccontextmanager
async def two_sides(
    root: Path,
    between: Between = plainly,
    *,
    callee: Mapping[str, str] = MappingProxyType({}),
    caller: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, str] = MappingProxyType({}),
    waits: bool = True,
) -> AsyncIterator[Sides]:
    """Both sides in DEV, with one secret; `callee` and `caller` are further settings of each, `files` further files.

    It `waits` for the caller to have looked at the callee.
    """
    write_project(root, {**FILES, **files})
    common = {
        "ENVIRONMENT": "dev",
        "AUTH_ENABLED": "false",
        "INTERNAL_SECRET": SECRET,
        "HTTP_CLIENT_BACKOFF_SECONDS": "0.001",
    }
    common["DATABASE_URL"] = f"sqlite:///{root / 'data'}"

    async def forward(call: Call) -> Reply | Drop:
        headers = {name: value for name, value in call.headers.items() if name != "content-length"}
        answer = await there.request(call.method, call.path, headers=headers, content=call.body)
        return Reply(answer.status_code, {"content-type": answer.headers["content-type"]}, answer.content)

    async with AsyncExitStack() as stack:
        stack.enter_context(imported_alone())
        other = create_app(*project_for(root, {**common, "ENABLED_MODULES": "prices", **callee}))
        await stack.enter_async_context(other.router.lifespan_context(other))
        there = await stack.enter_async_context(talking_to(other))
        wire = await stack.enter_async_context(HttpServer(lambda call: between(call, forward)))
        settings = {**common, "ENABLED_MODULES": "shop", "PRICES_URL": wire.url, **caller}
        app = create_app(*project_for(root, settings))
        await stack.enter_async_context(app.router.lifespan_context(app))
        shop = await stack.enter_async_context(talking_to(app))
        for module in app.kernel.get(Remote).channel.compared.values() if waits else ():
            await module._is_compared.wait()
        wire.calls.clear()
        contract, service = (importlib.import_module(f"modules.prices.{file}") for file in ("contract", "service"))
        yield Sides(app, other, shop, wire, app.kernel.contracts[contract.Prices], contract, service)
