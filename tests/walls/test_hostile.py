"""What the checks find of the hostile set, and that nothing valid is refused."""

import pytest

from tests.walls.hostile import sql as texts
from walls import sql

OWNERS = {"rights": "right"}


def names_right(text: str) -> bool:
    """Whether a text of the module `left` is refused."""
    named = sql.tables(text)
    return any(
        schema == "right" or (schema in {None, "unknown_"} and table == "rights") for schema, table in named
    ) or bool(list(sql.forbidden(text, "left")))


@pytest.mark.parametrize("text", texts.HOSTILE)
def test_sql_that_reaches_another_module_is_found(text: str) -> None:
    assert names_right(text)


@pytest.mark.parametrize("text", texts.VALID)
def test_valid_sql_is_not_refused(text: str) -> None:
    assert not names_right(text)
