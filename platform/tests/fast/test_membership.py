"""The tests of membership of the same name, with the bounded pool and the driver's sessions (conftest.py)."""

import pytest

pytest.importorskip("kernel.ext.membership.extension")

from tests.membership.test_membership import *  # noqa: F403  # once there is membership
