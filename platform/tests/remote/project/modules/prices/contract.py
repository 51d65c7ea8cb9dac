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
    """There are not that many."""

    limit: int
    of: Price


class SoldOut(ContractError):
    """Nothing is left."""


class Prices(Contract):
    """The prices of things."""

    @safe
    async def of(self, thing: str, amount: int = 1) -> Price:
        raise NotImplementedError

    @safe
    async def largest(self) -> Price | None:
        raise NotImplementedError

    @safe
    async def echo(
        self,
        value: Everything,
        /,
        *,
        also: list[Everything | int] = [],  # noqa: B006  # the description of the contract shows it
    ) -> list[Everything | int]:
        raise NotImplementedError

    async def change(self, thing: str, price: Price) -> None:
        raise NotImplementedError

    async def book(self, thing: str, idempotency_key: str) -> int:
        raise NotImplementedError

    @safe
    async def fail(self, how: str) -> None:
        raise NotImplementedError

    @safe
    async def sleep(self, seconds: float) -> float:
        raise NotImplementedError
