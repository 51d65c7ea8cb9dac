"""The bounded pool's tests of the same name, with the driver's sessions (conftest.py)."""

from tests.pool.test_watchdog import *  # noqa: F403
