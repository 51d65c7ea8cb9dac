"""The tests of roles of the same name, with the driver's sessions."""

from collections.abc import Callable

import pytest

from kernel.database import AsyncDBPool
from tests.fast.conftest import plug

extension = pytest.importorskip("kernel.ext.roles.extension")

from tests.roles.test_sessions_through_a_pooler import *  # noqa: E402, F403  # once there are roles


@pytest.fixture
def extend() -> Callable[[AsyncDBPool], AsyncDBPool]:
    """Plugs roles, the bounded pool and the driver's sessions into a pool."""

    def plug_roles(pool: AsyncDBPool) -> AsyncDBPool:
        extension.install(pool)
        return plug(pool)

    return plug_roles
