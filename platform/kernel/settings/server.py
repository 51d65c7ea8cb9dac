"""The settings of the listening socket and of the requests that it accepts."""

from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import Names, SettingsGroup
from kernel.settings.sources import Environment


class ServerSettings(SettingsGroup):
    """The listening socket and the requests that it accepts. Extensions have more with this prefix."""

    model_config = SettingsConfigDict(env_prefix="SERVER_")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    reload: bool = Field(default_factory=lambda data: data.get("environment") is Environment.LOCAL)
    # The names under which clients reach the application (`*.example.com` covers subdomains); loopback is always
    # allowed.
    allowed_hosts: Names = ("*",)
    # Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto headers are trusted.
    forwarded_allow_ips: Names = ("127.0.0.1",)
    # The path under which a proxy serves the application.
    root_path: str = ""

    @field_validator("reload")
    @classmethod
    def _reload_is_local(cls, value: bool, info: Any) -> bool:
        if value and info.data.get("environment") is not Environment.LOCAL:
            raise ValueError("must be off outside local")
        return value
