"""Types that the rule values-only allows, written and read by pydantic."""

import datetime as dt
import decimal
import fractions
import ipaddress
import pathlib
import uuid
import zoneinfo
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from kernel.ext.boundaries import wire

# One of each, by the names that the rule knows.
EXAMPLES: Mapping[str, tuple[Any, Any]] = {
    "str": (str, "ä"),
    "int": (int, -1),
    "float": (float, 1.5),
    "bool": (bool, True),
    "Literal": (Literal["a"], "a"),
    "datetime.datetime": (dt.datetime, dt.datetime(2024, 2, 29, 1, 2, 3, 4, dt.UTC)),
    "datetime.date": (dt.date, dt.date(2024, 2, 29)),
    "datetime.time": (dt.time, dt.time(1, 2, 3)),
    "datetime.timedelta": (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    "uuid.UUID": (uuid.UUID, uuid.UUID(int=1)),
    "decimal.Decimal": (decimal.Decimal, decimal.Decimal("1.10")),
    "pathlib.Path": (pathlib.Path, pathlib.Path("/a")),
    "pathlib.PurePath": (pathlib.PurePath, pathlib.PurePath("a")),
    "pathlib.PurePosixPath": (pathlib.PurePosixPath, pathlib.PurePosixPath("a")),
    "fractions.Fraction": (fractions.Fraction, fractions.Fraction(1, 3)),
    "zoneinfo.ZoneInfo": (zoneinfo.ZoneInfo, zoneinfo.ZoneInfo("UTC")),
    "ipaddress.IPv4Address": (ipaddress.IPv4Address, ipaddress.IPv4Address("127.0.0.1")),
    "ipaddress.IPv4Network": (ipaddress.IPv4Network, ipaddress.IPv4Network("10.0.0.0/8")),
    "ipaddress.IPv4Interface": (ipaddress.IPv4Interface, ipaddress.IPv4Interface("10.0.0.1/8")),
    "ipaddress.IPv6Address": (ipaddress.IPv6Address, ipaddress.IPv6Address("::1")),
    "ipaddress.IPv6Network": (ipaddress.IPv6Network, ipaddress.IPv6Network("::/8")),
    "ipaddress.IPv6Interface": (ipaddress.IPv6Interface, ipaddress.IPv6Interface("::1/8")),
}


def sent(type_: Any, value: object) -> object:
    adapter = TypeAdapter[Any](type_)
    return adapter.validate_json(adapter.dump_json(value))


def test_every_plain_type_is_measured() -> None:
    assert set(EXAMPLES) == wire.KEYS


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_allowed_type_arrives_unchanged_also_as_a_key(name: str) -> None:
    type_, value = EXAMPLES[name]
    arrived = sent(type_, value)
    assert (arrived, type(arrived)) == (value, type(value))
    assert sent(dict[type_, int], {value: 1}) == {value: 1}


@pytest.mark.parametrize("type_", [tuple[int, int], int | None, frozenset[int]])
def test_a_refused_type_of_keys_cannot_be_read_back(type_: Any) -> None:
    value = {frozenset[int]: frozenset({1}), int | None: None}.get(type_, (1, 2))
    with pytest.raises((ValidationError, PydanticSerializationError)):
        sent(dict[type_, int], {value: 1})


def test_bytes_need_base64() -> None:
    class Blob(BaseModel, ser_json_bytes="base64", val_json_bytes="base64"):
        data: bytes

    with pytest.raises(PydanticSerializationError):
        sent(bytes, b"\xff")
    assert sent(Blob, Blob(data=b"\xff")) == Blob(data=b"\xff")


def test_a_secret_and_one_of_two_arrays_arrive_changed() -> None:
    assert sent(SecretStr, SecretStr("a")) != SecretStr("a")
    assert sent(list[int] | frozenset[int], frozenset({1})) == [1]
