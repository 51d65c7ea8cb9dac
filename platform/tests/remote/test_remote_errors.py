"""The errors that a contract declares: exceptions with fields that can cross."""

import pytest
from pydantic import BaseModel, ValidationError

from kernel import ContractError


class Price(BaseModel, frozen=True):
    cents: int


class TooMany(ContractError):
    """There are not that many.

    Ask for fewer.
    """

    limit: int
    price: Price = Price(cents=3)


class StillTooMany(TooMany):
    why: str


class SoldOut(ContractError):
    pass


def test_its_fields_are_attributes_and_part_of_its_text() -> None:
    error = TooMany(limit=3)
    assert (error.limit, error.price.cents) == (3, 3)
    assert str(error) == "There are not that many (limit=3, price=Price(cents=3))"
    assert str(SoldOut()) == "SoldOut"
    assert issubclass(StillTooMany, TooMany)
    assert StillTooMany(limit=1, why="x").fields.model_dump() == {"limit": 1, "price": {"cents": 3}, "why": "x"}


@pytest.mark.parametrize("fields", [{}, {"limit": "many"}, {"limit": None}])
def test_fields_of_other_types_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TooMany(**fields)  # type: ignore[arg-type]  # what a type checker would refuse


@pytest.mark.parametrize("name", ["args", "add_note", "fields"])
def test_a_field_cannot_hide_an_attribute_of_every_error(name: str) -> None:
    with pytest.raises(TypeError, match=f"Hidden cannot have a field {name}"):
        type("Hidden", (ContractError,), {"__annotations__": {name: int}})
