"""Settings of the store that processes share."""

from importlib.util import find_spec

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class StoreSettings(SettingsGroup):
    """The store of rate limits and cached responses: a Redis for all processes, or the memory of each."""

    model_config = SettingsConfigDict(env_prefix="STORE_")

    # redis://:password@host:6379/0; unset, each process uses its own memory.
    url: SecretStr | None = None
    # How long a request waits for Redis; after that the process uses its own memory.
    timeout_seconds: float = Field(0.25, gt=0)
    # How much memory a process uses for cached responses where there is no Redis.
    memory_bytes: int = Field(32 << 20, ge=0)

    @field_validator("url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis:// (rediss:// for TLS, unix:// for a socket)")
        if value is not None and find_spec("redis") is None:
            raise ValueError("needs the package redis: install platform-kernel[store]")
        return value
