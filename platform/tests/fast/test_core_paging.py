"""The core's tests of the same name, with the bounded pool and the driver's sessions (conftest.py)."""

from tests.paging.test_paging import *  # noqa: F403
