"""The tests of roles of the same name, with the driver's sessions."""

from collections.abc import Callable

import pytest

from kernel.database import AsyncDBPool
from tests.fast.conftest import plug_with_roles

pytest.importorskip("kernel.ext.roles.extension")

from tests.roles.test_runtime_boundaries_roles import *  # noqa: F403  # once there are roles


@pytest.fixture
def extend() -> Callable[..., AsyncDBPool]:
    return plug_with_roles
