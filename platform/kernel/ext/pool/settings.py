"""The settings of the bounded pool and of the quotas of modules."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings import SettingsGroup


class PoolSettings(SettingsGroup):
    """The use of the connection pool. DatabaseConfig has its size."""

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    # How long an unused connection above pool_size is kept.
    pool_overflow_lingers_seconds: float = Field(30, gt=0)
    # The share of the pool that one module may use, in percent of pool_size + max_overflow, if several modules with
    # tables use the pool. Beyond its share, a module's requests wait for the share timeout, then they are answered 503.
    pool_share_percent: int = Field(60, ge=1, le=100)
    # The default is DATABASE_POOL_TIMEOUT_SECONDS.
    pool_share_timeout_seconds: float | None = Field(None, gt=0)
    # The driver's connections are tested, too, after this long without use: a connection that a firewall has dropped
    # never answers.
    pool_ping_after_idle_seconds: float = Field(30, ge=0)
