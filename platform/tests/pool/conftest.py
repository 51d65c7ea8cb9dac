"""Pools with the bounded pool and the quotas of modules."""

from collections.abc import Callable

import pytest

from kernel.database import AsyncDBPool
from kernel.ext.pool import install as bounded


@pytest.fixture
def extend() -> Callable[[AsyncDBPool], AsyncDBPool]:
    """Plugs the bounded pool into a pool. platform/tests/fast runs these tests with the driver's sessions, too."""

    def plug(pool: AsyncDBPool) -> AsyncDBPool:
        bounded.install(pool)
        return pool

    return plug
