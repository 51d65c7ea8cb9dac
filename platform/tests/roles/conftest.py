"""Pools in which each module has roles."""

from collections.abc import Callable
from typing import Any

import pytest

from kernel.database import AsyncDBPool
from kernel.ext.pool import install as bounded
from kernel.ext.pool.settings import PoolSettings
from kernel.ext.roles import extension as roles


@pytest.fixture
def extend() -> Callable[..., AsyncDBPool]:
    """Plug roles and the bounded pool into a pool. platform/tests/fast runs these tests with the driver's sessions."""

    def plug(pool: AsyncDBPool, role_prefix: str | None = None, **options: Any) -> AsyncDBPool:
        roles.install(pool, role_prefix)
        bounded.install(pool, PoolSettings(**options))
        return pool

    return plug
