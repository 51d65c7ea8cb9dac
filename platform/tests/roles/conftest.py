"""Pools in which each module has roles."""

from collections.abc import Callable

import pytest

from kernel.database import AsyncDBPool
from kernel.ext.pool import install as bounded
from kernel.ext.roles import extension as roles


@pytest.fixture
def extend() -> Callable[[AsyncDBPool], AsyncDBPool]:
    """Plugs roles and the bounded pool into a pool. platform/tests/fast runs these tests with the driver's sessions."""

    def plug(pool: AsyncDBPool) -> AsyncDBPool:
        roles.install(pool)
        bounded.install(pool)
        return pool

    return plug
