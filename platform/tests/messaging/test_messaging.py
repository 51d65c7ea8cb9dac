"""Messages, and the versions of values that modules exchange."""

import pytest
from pydantic import ValidationError

from kernel import Contract
from kernel.ext.messaging import Message


class Deleted(Message):
    thing_id: int


class Moved(Message, version=3):
    thing_id: int


class Things(Contract):
    async def get(self, thing_id: int) -> str: ...


class Others(Contract, version=2):
    async def get(self, thing_id: int) -> str: ...


class Answers(Others):
    async def get(self, thing_id: int) -> str:
        return str(thing_id)


def test_a_message_cannot_be_changed() -> None:
    message = Deleted(thing_id=1)
    with pytest.raises(ValidationError, match="frozen"):
        message.thing_id = 2  # type: ignore[misc]  # this is what is tested


def test_the_json_of_a_message_does_not_contain_its_version() -> None:
    message = Moved(thing_id=1)
    assert message.model_dump_json() == '{"thing_id":1}'
    assert Moved.model_validate_json(message.model_dump_json()) == message


def test_the_version_is_a_class_argument_and_one_by_default() -> None:
    assert (Deleted.message_version, Moved.message_version) == (1, 3)
    assert (Things.contract_version, Others.contract_version) == (1, 2)


def test_an_implementation_has_the_version_of_its_contract() -> None:
    assert Answers.contract_version == 2
