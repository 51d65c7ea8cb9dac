"""The setting of the cache."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings import SettingsGroup


class CacheSettings(SettingsGroup):
    """Settings of the cache for databases with replicas."""

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    # The largest lag of the replica. For this long after a change, `cached` stores nothing that the change affects.
    read_lag_seconds: float = Field(5, ge=0)
