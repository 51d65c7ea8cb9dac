"""Requests that may be repeated with their key."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class IdempotencySettings(SettingsGroup):
    """Requests that may be repeated with their key."""

    model_config = SettingsConfigDict(env_prefix="IDEMPOTENCY_")

    # How long a key and its answer are kept, from the first request on: a day, as clients of others expect it.
    keep_seconds: float = Field(86400, gt=0)
