"""The core stays small enough to be read in an evening."""

from tests.core.lines import core

# Lines outside `ext` and `testing` that are neither blank nor a comment. It may only shrink.
_MOST = 4917


def test_the_core_can_be_read_in_an_evening() -> None:
    assert sum(core().values()) <= _MOST
