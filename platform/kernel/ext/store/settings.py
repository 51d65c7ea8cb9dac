"""Where counts and cached responses are kept: in the process, or in a Redis that all processes share."""

from importlib.util import find_spec

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class StoreSettings(SettingsGroup):
    """Where counts and cached answers are kept: in the process, or in a Redis that all processes share."""

    model_config = SettingsConfigDict(env_prefix="STORE_")

    # redis://:password@host:6379/0; unset, each process keeps its own.
    url: SecretStr | None = None
    # How long a request waits for it; then its process goes on with what it has itself.
    timeout_seconds: float = Field(0.25, gt=0)
    # What a process keeps of cached answers where there is no Redis.
    memory_bytes: int = Field(32 << 20, ge=0)

    @field_validator("url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis:// (rediss:// for TLS, unix:// for a socket)")
        if value is not None and find_spec("redis") is None:
            raise ValueError("needs the package redis: install platform-kernel[store]")
        return value
