"""The bounded pool's tests of the same name, with the driver's sessions (conftest.py)."""

from tests.pool.test_runtime_boundaries_share import *  # noqa: F403
