"""The types of request fields are exactly those in the OpenAPI document."""

import datetime as dt
import json
import re
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from kernel.ext.fields import Day, Id, LocalTime, NoNul, Omittable, RequestBody


class Body(RequestBody):
    number: int = 0
    ratio: float = 0
    flag: bool = False
    text: str = ""
    day: Day | None = None
    moment: dt.datetime | None = None
    thing: Id | None = Omittable
    several: list[int] | None = None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", True),
        ("number", "1"),
        ("number", 1.5),
        ("ratio", "1.5"),
        ("ratio", True),
        ("flag", 1),
        ("flag", "yes"),
        ("text", 1),
        ("day", 0),
        ("day", "0"),
        ("day", "2030-01-02T00:00:00"),
        ("moment", 0),
        ("thing", True),
        ("thing", 2**53),
    ],
)
def test_a_field_refuses_other_types(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Body.model_validate({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 1.0),
        ("ratio", 1),
        ("day", "2030-01-02"),
        ("day", dt.date(2030, 1, 2)),
        ("day", None),
        ("moment", "2030-01-02T00:00:00Z"),
        ("thing", 2**53 - 1),
        ("several", [1]),
    ],
)
def test_a_field_accepts_its_own_type(field: str, value: object) -> None:
    assert Body.model_validate({field: value}).model_fields_set == {field}


@pytest.mark.parametrize(
    "value", ["0", "60", "20", "24:00", "20:60", "20:00Z", "20:00+01:00", "20:00:00.1234567", " 20:00"]
)
def test_a_local_time_has_one_representation(value: str) -> None:
    local = TypeAdapter(LocalTime)
    assert local.validate_python("20:00:30.5") == dt.time(20, 0, 30, 500_000)
    pattern = local.json_schema()["pattern"]
    assert re.search(pattern, "20:00:30.5")
    assert not re.search(pattern, value)
    with pytest.raises(ValidationError):
        local.validate_python(value)


def test_openapi_describes_the_refused_texts() -> None:
    class Text(BaseModel):
        any: Annotated[str, StringConstraints(strip_whitespace=True), NoNul] | None
        some: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), NoNul]

    properties: dict[str, Any] = Text.model_json_schema()["properties"]
    assert "pattern" in json.dumps(properties["any"])
    for bad in (" ", "a\x00", "\t\n"):
        assert not re.search(properties["some"]["pattern"], bad)
    assert re.search(properties["some"]["pattern"], " a b ")
