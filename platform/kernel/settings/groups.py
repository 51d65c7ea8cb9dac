"""The typed groups of settings. Each has a prefix; comments give the meaning, unit and default of a field."""

import json
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from kernel.settings.sources import Environment, Layer, Sources

# The sources and the prefix for the group that is being built. If unset, it reads those of the working directory.
reading: ContextVar[tuple[Sources, str | None] | None] = ContextVar("reading", default=None)


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several names: `a,b` or `["a", "b"]`."""


class _LayerSource(EnvSettingsSource):
    """Reads one layer the way pydantic-settings reads environment variables. Empty values are ignored."""

    def __init__(self, group: type[BaseSettings], layer: Layer, prefix: str | None) -> None:
        self._layer = layer
        super().__init__(group, env_prefix=prefix)

    def _load_env_vars(self) -> dict[str, str | None]:
        return {name.lower(): value for name, value in self._layer.values.items() if value}


class SettingsGroup(BaseSettings):
    """Settings with a common prefix. Values come from the layers in kernel.settings.sources; keywords override them."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        env_nested_delimiter="__",
    )

    environment: Environment = Field(Environment.LOCAL, validation_alias="ENVIRONMENT")
    # None: that of the class.
    _prefix: str | None = PrivateAttr(default_factory=lambda: (reading.get() or (None, None))[1])

    @field_validator("environment", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources, prefix = reading.get() or (Sources.read(Path.cwd()), None)
        return (init_settings, *(_LayerSource(settings_cls, layer, prefix) for layer in sources.layers))

    @classmethod
    def variable(cls, field_name: str, prefix: str | None = None) -> str:
        """Return the name of the variable that sets the field."""
        alias = cls.model_fields[field_name].validation_alias
        own_prefix = cls.model_config.get("env_prefix", "") if prefix is None else prefix
        return alias if isinstance(alias, str) else f"{own_prefix}{field_name}".upper()

    def values(self) -> Iterator[tuple[str, object]]:
        """Yield each variable of this group with its value."""
        for field_name in type(self).model_fields:
            yield self.variable(field_name, self._prefix), getattr(self, field_name)


class ApplicationSettings(SettingsGroup):
    """The application's title and version, and its modules."""

    model_config = SettingsConfigDict(env_prefix="APPLICATION_")

    title: str = "Application"
    # By default the version in the project's pyproject.toml.
    version: str = "0.0.0"
    # Whether error responses contain tracebacks.
    debug: bool = Field(default_factory=lambda data: data.get("environment") in {Environment.LOCAL, Environment.DEV})
    # None enables all modules in modules/.
    enabled_modules: Names | None = Field(None, validation_alias="ENABLED_MODULES")
    # Whether a call of another module in a transaction that has written is an error instead of a warning.
    strict_contract_calls: bool = Field(default_factory=lambda data: data.get("environment") is Environment.LOCAL)
    secrets_dir: Path = Field(Path("/mnt/secrets"), validation_alias="SECRETS_DIR")

    @property
    def openapi_url(self) -> str | None:
        """Return the path of the OpenAPI document; None in PROD, which serves none."""
        return None if self.environment is Environment.PROD else "/openapi.json"

    @property
    def migrates_at_start(self) -> bool:
        """Whether the start applies migrations, instead of verifying that all are applied."""
        return self.environment is Environment.LOCAL

    @field_validator("debug")
    @classmethod
    def _no_debug_in_production(cls, value: bool, info: Any) -> bool:
        if value and info.data.get("environment") in {Environment.UAT, Environment.PROD}:
            raise ValueError(f"must be off in {info.data['environment']}, because it shows tracebacks to callers")
        return value


class HttpClientSettings(SettingsGroup):
    """The pool of outgoing HTTP connections that all modules share. Timeouts are in seconds."""

    model_config = SettingsConfigDict(env_prefix="HTTP_CLIENT_")

    max_connections: int = Field(100, ge=1)
    max_keepalive_connections: int = Field(20, ge=0)
    keepalive_expiry_seconds: float = Field(30, gt=0)
    connect_timeout_seconds: float = Field(5, gt=0)
    # Per part of a response.
    read_timeout_seconds: float = Field(10, gt=0)
    write_timeout_seconds: float = Field(10, gt=0)
    pool_timeout_seconds: float = Field(5, gt=0)
    # For one call including redirects, retries and the body.
    total_timeout_seconds: float = Field(30, gt=0)
    # A PEM file of certificates to trust in addition to the system's.
    ca_file: Path | None = None


class LogSettings(SettingsGroup):
    """The level and the format of the log."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default_factory=lambda data: "DEBUG" if data.get("environment") is Environment.LOCAL else "INFO"
    )
    format: Literal["console", "json"] = Field(
        default_factory=lambda data: "console" if data.get("environment") is Environment.LOCAL else "json"
    )


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


class AuthSettings(SettingsGroup):
    """Whether callers are authenticated. An extension that authenticates them has more with this prefix."""

    model_config = SettingsConfigDict(env_prefix="AUTH_")

    # If off, a caller without credentials is a developer with all scopes.
    enabled: bool = Field(default_factory=lambda data: data.get("environment") is not Environment.LOCAL)

    @field_validator("enabled")
    @classmethod
    def _is_on_in_production(cls, value: bool, info: Any) -> bool:
        environment = info.data.get("environment")
        if not value and environment in {Environment.UAT, Environment.PROD}:
            raise ValueError(f"must not be off in {environment}: every caller would have all scopes")
        return value
