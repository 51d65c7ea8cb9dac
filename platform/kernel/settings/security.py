"""Who may call, how often, and where the processes keep what they know together."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import Names, SettingsGroup
from kernel.settings.sources import Environment


class AuthSettings(SettingsGroup):
    """Bearer tokens of an OpenID provider. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="AUTH_")

    # In LOCAL, who sends no token is a developer who may do everything.
    enabled: bool = Field(default_factory=lambda data: data.get("environment") is not Environment.LOCAL)
    issuer: str | None = None
    audience: str | None = None


class RateLimitSettings(SettingsGroup):
    """How often a caller may ask."""

    model_config = SettingsConfigDict(env_prefix="RATE_LIMIT_")

    # For each caller, over all routes: `600/minute`. Unset, only the routes' own limits hold.
    overall: str | None = None
    # Addresses and networks whose requests are not counted.
    exempt: Names = ()


class StoreSettings(SettingsGroup):
    """Where counts and cached answers are kept: in the process, or in a Redis that all processes share."""

    model_config = SettingsConfigDict(env_prefix="STORE_")

    # redis://:password@host:6379/0; unset, each process keeps its own.
    url: SecretStr | None = None
    timeout_seconds: float = Field(0.25, gt=0)
