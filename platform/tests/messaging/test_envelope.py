"""Which messages can be published, and which could not be read back unchanged."""

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, computed_field

from kernel.ext.messaging import Message
from kernel.ext.messaging.envelope import Envelope, PublishError


class Money(BaseModel):
    amount: int


class Euros(Money):
    cents: int = 0


class Paid(Message, key="to"):
    to: str | None = None
    money: Money = Money(amount=1)
    rate: float = 1
    secret: SecretStr = SecretStr("")
    renamed: int = Field(1, alias="other")


class Hidden(Message):
    inside: int = Field(1, exclude=True)


class Computed(Message, extra="forbid"):
    one: int = 1

    @computed_field
    def two(self) -> int:
        return 2 * self.one


class PaidLater(Paid, version=2):
    pass


def test_an_envelope_is_unchanged_after_json() -> None:
    envelope = Envelope.of(Paid(to="you"))
    assert Envelope.from_json(envelope.to_json()) == envelope
    for body in (b"", b"[]", b"{}", b"\xff", b'{"id": 1}'):
        with pytest.raises(ValueError, match="not an envelope"):
            Envelope.from_json(body)


def test_a_field_that_a_newer_version_added_is_ignored() -> None:
    envelope = Envelope.of(Paid(to="you"))
    newer = json.loads(envelope.to_json()) | {"priority": 1}
    assert Envelope.from_json(json.dumps(newer).encode()) == envelope


@pytest.mark.parametrize(
    "message",
    [
        lambda: Paid(rate=math.nan),
        lambda: Paid(rate=math.inf),
        lambda: Paid(money=Euros(amount=1, cents=2)),
        lambda: Paid(secret=SecretStr("s")),
        lambda: Paid(to="\ud800"),
        lambda: Hidden(inside=2),
        Computed,
    ],
)
def test_a_message_that_changes_in_json_cannot_be_published(message: Any) -> None:
    with pytest.raises(PublishError, match="does not survive JSON"):
        Envelope.of(message())


@pytest.mark.parametrize("key", ["x" * 201, "a\0b"])
def test_a_key_that_is_too_long_cannot_be_published(key: str) -> None:
    with pytest.raises(PublishError, match="has more than 200 characters or a NUL"):
        Envelope.of(Paid(to=key))


def test_a_field_with_another_name_arrives() -> None:
    assert Paid.from_stored(1, Envelope.of(Paid(other=7)).payload) == Paid(other=7)


def test_a_derived_message_has_the_key_and_the_version_of_its_base() -> None:
    assert (PaidLater.message_key, PaidLater.message_version) == ("to", 2)

    class Again(PaidLater):
        pass

    assert (Again.message_key, Again.message_version) == ("to", 2)
