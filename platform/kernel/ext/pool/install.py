"""Install the bounded pool and the quotas of modules in AsyncDBPool."""

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from kernel.database import AsyncDBPool
from kernel.database.server_session import quoted
from kernel.ext.pool.bounded_pool import BoundedPool
from kernel.ext.pool.quota import QUOTA, ModuleQuota, QuotaEngine
from kernel.ext.pool.settings import PoolSettings
from kernel.gauges import Gauge


def install(pool: AsyncDBPool, settings: PoolSettings) -> "Quotas":
    """Use bounded pools in `pool`, with a quota for each module that shares one. Call it before any engine exists."""
    quotas = Quotas(pool, settings)
    pool.pool_class = BoundedPool
    pool.on_engine.append(quotas.listen)
    pool.engine_of_module = quotas.engine_of_module
    return quotas


class Quotas:
    """Creates the quota of each module."""

    def __init__(self, pool: AsyncDBPool, settings: PoolSettings) -> None:
        self._pool = pool
        self._settings = settings
        placements = [pool.placement(module) for module in pool.with_tables]
        self._users = Counter(url for one in placements for url in {one.url, one.read_url})
        self._quotas: dict[tuple[str, URL], ModuleQuota | None] = {}

    def listen(self, engine: AsyncEngine) -> None:
        """Set up a new engine's pool."""
        settings, pool = self._settings, engine.sync_engine.pool
        event.listen(engine.sync_engine, "begin", _take_local_role)
        if isinstance(pool, BoundedPool) and engine.dialect.name == "postgresql":
            if pool.ping_after is None:
                pool.ping_after = settings.pool_ping_after_idle_seconds
            pool.attempt_ping_after = settings.pool_ping_after_idle_seconds
            pool.ping_timeout = self._pool.config.connect_timeout_seconds
            pool.overflow_lingers = settings.pool_overflow_lingers_seconds
            pool.watch()

    def engine_of_module(self, module: str | None, engine: AsyncEngine) -> AsyncEngine:
        """Return the engine that takes connections for a module."""
        if module is None or engine.dialect.name != "postgresql":
            return engine
        key = (module, engine.url)
        if key not in self._quotas:
            self._quotas[key] = self._quota(module, engine.url)
        quota = self._quotas[key]
        return engine if quota is None else AsyncEngine(QuotaEngine(engine.sync_engine, quota))

    async def refresh(self) -> None:
        """Do nothing: the numbers are known."""

    def gauges(self) -> Iterator[Gauge]:
        """Yield the connections of each module that may hold only a share of its pool."""
        shares = {
            module: share
            for (module, url), quota in self._quotas.items()
            if quota is not None and (share := quota.share) is not None and url == self._pool.placement(module).url
        }
        size = self._pool.config.pool_size
        for name, text, numbers in (
            (
                "in_use",
                "Connections that a module holds of its share of the pool.",
                [share.in_use for share in shares.values()],
            ),
            (
                "waiting",
                "Callers that wait for a part of their module's share.",
                [share.waiting for share in shares.values()],
            ),
            (
                "overflow",
                "Connections of a module above the pool's size, were there no other module.",
                [max(0, share.in_use - size) for share in shares.values()],
            ),
        ):
            rows = [((module,), number) for module, number in zip(shares, numbers, strict=True)]
            yield Gauge(f"database_module_{name}", text, ("module",), rows)

    def _quota(self, module: str, url: URL) -> ModuleQuota | None:
        """Return a module's quota in the pool of `url`; None if it needs neither a role nor a limit."""
        config, roles = self._pool.config, self._pool.roles
        role = None if roles is None else roles(module)
        others = self._users[url] - (module in self._pool.with_tables)
        limit = (
            max(1, (config.pool_size + config.max_overflow) * self._settings.pool_share_percent // 100)
            if others
            else None
        )
        if role is None and limit is None:
            return None
        name, is_local = role.name if role else None, config.pooler == "transaction"
        seconds = self._settings.pool_share_timeout_seconds or config.pool_timeout_seconds
        return ModuleQuota(module, None if is_local else name, limit, seconds, name if is_local else None)


def _take_local_role(connection: Connection) -> None:
    """Take the module's role for this transaction only, because a pooler gives the connection to others."""
    quota: ModuleQuota | None = connection.get_execution_options().get(QUOTA)
    if quota is not None and quota.local_role is not None:
        connection.exec_driver_sql(f"SET LOCAL ROLE {quoted(quota.local_role)}")
