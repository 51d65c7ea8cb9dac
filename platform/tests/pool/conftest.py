"""Pools with the bounded pool and the quotas of modules."""

from collections.abc import Callable
from typing import Any

import pytest

from kernel.database import AsyncDBPool
from kernel.ext.pool import install as bounded
from kernel.ext.pool.settings import PoolSettings


@pytest.fixture
def extend() -> Callable[..., AsyncDBPool]:
    """Plug the bounded pool into a pool. platform/tests/fast runs these tests with the driver's sessions, too."""

    def plug(pool: AsyncDBPool, **options: Any) -> AsyncDBPool:
        bounded.install(pool, PoolSettings(**options))
        return pool

    return plug
