"""The web pages of other origins that may call the API."""

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings import Environment, SettingsGroup
from kernel.settings.groups import Names


class CorsSettings(SettingsGroup):
    """The web pages of other origins that may call the API."""

    model_config = SettingsConfigDict(env_prefix="CORS_")

    allow_origins: Names = Field(
        default_factory=lambda data: ("*",) if data.get("environment") is Environment.LOCAL else ()
    )
    allow_methods: Names = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    allow_headers: Names = (
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "If-Match",
        "If-None-Match",
        "X-Request-ID",
    )
    expose_headers: Names = (
        "ETag", "Idempotency-Replayed", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"
    )  # fmt: skip
    allow_credentials: bool = False
    max_age_seconds: int = Field(600, ge=0)

    @model_validator(mode="after")
    def _is_safe(self) -> "CorsSettings":
        if "*" in self.allow_origins and self.environment is Environment.PROD:
            raise ValueError("CORS_ALLOW_ORIGINS must not be * in prod: list the origins")
        if "*" in self.allow_origins and self.allow_credentials:
            raise ValueError("CORS_ALLOW_CREDENTIALS needs listed origins in CORS_ALLOW_ORIGINS, not *")
        return self
