"""The core's tests of the same name, with the bounded pool and the driver's sessions (conftest.py)."""

from tests.core.test_runtime_boundaries_calls import *  # noqa: F403
