"""The fixtures of the core's tests that the tests of membership share."""

from tests.core.conftest import extend, seen_by_the_driver

__all__ = ["extend", "seen_by_the_driver"]
