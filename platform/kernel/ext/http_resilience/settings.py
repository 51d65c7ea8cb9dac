"""The settings of retries, circuit breakers and limits."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import SettingsGroup


class ResilienceSettings(SettingsGroup):
    """Retries, circuit breakers and limits of the HTTP client. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="HTTP_CLIENT_")

    max_attempts: int = Field(3, ge=1, le=10)
    # The concurrent calls to one upstream: a slow one leaves the other connections to the others.
    max_calls_per_origin: int = Field(50, ge=1)
    # After half of its last calls have failed, an upstream gets no call for this time; then one call tries.
    circuit_open_seconds: float = Field(2, gt=0)
    # The first pause between tries; it doubles, with full jitter, up to the longest.
    backoff_seconds: float = Field(0.1, gt=0)
    max_backoff_seconds: float = Field(2, gt=0)
    # The largest body of a response, both before and after decompression.
    max_answer_bytes: int = Field(100 << 20, ge=1)
