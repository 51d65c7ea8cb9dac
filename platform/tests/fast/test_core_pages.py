"""The tests of paging of the same name, with the bounded pool and the driver's sessions (conftest.py)."""

from tests.paging.test_pages import *  # noqa: F403
