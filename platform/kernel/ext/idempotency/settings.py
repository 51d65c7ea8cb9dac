"""The settings of idempotency keys."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class IdempotencySettings(SettingsGroup):
    """Requests that a client may repeat with their key."""

    model_config = SettingsConfigDict(env_prefix="IDEMPOTENCY_")

    # How long a key and its response are kept after the first request. A day is what clients of other APIs expect.
    keep_seconds: float = Field(86400, gt=0)
