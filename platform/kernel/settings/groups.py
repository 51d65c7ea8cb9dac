"""The typed groups of settings. Each has a prefix; comments give the meaning, unit and default of a field."""

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import URL

from kernel.settings.database_url import read_database_url
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
    # Order the dependencies of a route once instead of at every request (kernel/ext/fast/endpoint.py).
    compiled_endpoints: bool = True
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


def _database_url(text: str) -> URL:
    """Return a database URL for SQLAlchemy, with an asynchronous driver. Raises ValueError."""
    return read_database_url(text).url


def _connect_timeout(data: Mapping[str, Any]) -> float:
    url = data.get("url")
    return (read_database_url(url.get_secret_value()).connect_timeout_seconds if url else None) or 2


def _refuse_connect_timeout(text: str) -> None:
    if read_database_url(text).connect_timeout_seconds is not None:
        raise ValueError(
            "has connect_timeout, but all databases share one: remove it, and set DATABASE_CONNECT_TIMEOUT_SECONDS"
        )


class DatabaseConfig(SettingsGroup):
    """The shared database and its connection pool. `<MODULE>_DATABASE_URL` gives a module its own database.

    Set `DATABASE_URL`, or `DATABASE_HOST` with the port, user, password and name. On SQLite the URL names a folder
    (`sqlite:///data`) that contains one file per module.
    """

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    url: SecretStr | None = None
    # A replica that serves GET and HEAD requests.
    read_url: SecretStr | None = None
    # PostgreSQL itself, if DATABASE_URL leads to a pooler in transaction mode: migrations and LISTEN need a session of
    # their own. The default is DATABASE_URL.
    direct_url: SecretStr | None = None
    # The largest lag of the replica. For this long after a change, `cached` stores nothing that the change affects.
    read_lag_seconds: float = Field(5, ge=0)
    host: str | None = None
    port: int = Field(5432, ge=1, le=65535)
    user: str | None = None
    password: SecretStr | None = None
    name: str | None = None

    # Connections that each process keeps, and additional ones under load. The sum over all processes must stay below
    # the server's max_connections.
    pool_size: int = Field(5, ge=1)
    max_overflow: int = Field(10, ge=0)
    # How long an unused connection above pool_size is kept.
    pool_overflow_lingers_seconds: float = Field(30, gt=0)
    # How long a request waits for a connection before it is answered 503, in total within a second.
    pool_timeout_seconds: float = Field(0.75, gt=0)
    # The share of the pool that one module may use, in percent of pool_size + max_overflow, if several modules with
    # tables use the pool. Beyond its share, a module's requests wait for the share timeout, then they are answered 503.
    pool_share_percent: int = Field(60, ge=1, le=100)
    pool_share_timeout_seconds: float = Field(0.75, gt=0)
    # Shorter than the idle limits of common proxies and firewalls.
    pool_recycle_seconds: int = Field(3600, ge=1)
    # Test each connection before the ORM uses it. Statements on the driver need no test: if the connection is dead,
    # they are repeated on a new one.
    pool_pre_ping: bool = True
    # The driver's connections are tested, too, after this long without use: a connection that a firewall has dropped
    # never answers.
    pool_ping_after_idle_seconds: float = Field(30, ge=0)
    # Run statements directly on the driver where the ORM is not needed (kernel/ext/fast/driver.py).
    direct_statements: bool = True
    # PostgreSQL: each module's sessions use a role with rights in the module's schema only. `kernel roles --apply`
    # creates the roles; in local the start does.
    role_per_module: bool = False
    # PostgreSQL: the mode of the connection pooler (PgBouncer) in DATABASE_URL. In `transaction` mode the server
    # connection may change after each transaction: so every statement, reads included, runs in a transaction, sets its
    # role there (SET LOCAL ROLE), and is prepared without a name.
    pooler: Literal["none", "session", "transaction"] = "none"
    # The prefix of the roles' names, which must be unique on the server. The default is the database's name and a dot.
    role_prefix: str | None = None
    # asyncpg's own default is 60 s. Two seconds allow one lost packet, which is sent again after a second. The default
    # is the `connect_timeout` in DATABASE_URL, or else 2.
    connect_timeout_seconds: float = Field(default_factory=_connect_timeout, gt=0)
    # For slow statements; asyncpg has no default. ext/pool/watchdog.py detects a silent database within two seconds.
    command_timeout_seconds: float = Field(30, gt=0)
    # SQLite: how long a writer waits for another process's write.
    busy_timeout_seconds: float = Field(5, ge=0)
    # Migrations: how long to wait for another migrating process, for a table lock, and for one statement.
    migration_wait_seconds: float = Field(120, gt=0)
    migration_lock_timeout_seconds: float = Field(10, gt=0)
    migration_statement_timeout_seconds: float = Field(600, gt=0)

    @field_validator("url", "read_url", "direct_url")
    @classmethod
    def _is_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            _database_url(value.get_secret_value())
            if info.field_name != "url":
                _refuse_connect_timeout(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _is_complete_and_safe(self) -> "DatabaseConfig":
        if self.url and self.host:
            raise ValueError("DATABASE_URL and DATABASE_HOST are both set: keep one of them")
        if self.host and not (self.user and self.name):
            raise ValueError("DATABASE_HOST needs DATABASE_USER and DATABASE_NAME: set them, too")
        if not (self.url or self.host) and self.environment is not Environment.LOCAL:
            raise ValueError(f"DATABASE_URL is required in {self.environment} (or DATABASE_HOST and its parts)")
        for variable, url in (
            ("DATABASE_URL", self.get_url()),
            ("DATABASE_READ_URL", self.get_read_url()),
            ("DATABASE_DIRECT_URL", self.get_direct_url()),
        ):
            try:
                check_is_fit(url, self.environment)
            except ValueError as error:
                raise ValueError(f"{variable} {error}") from None
        try:
            check_is_direct(self.get_direct_url(), self.get_url())
        except ValueError as error:
            raise ValueError(f"DATABASE_DIRECT_URL {error}") from None
        return self

    def get_url(self) -> URL:
        """Return the URL for SQLAlchemy, with an asynchronous driver."""
        if self.url is not None:
            return _database_url(self.url.get_secret_value())
        if self.host is not None:
            password = self.password.get_secret_value() if self.password else None
            return URL.create("postgresql+asyncpg", self.user, password, self.host, self.port, self.name)
        return _database_url("sqlite:///data")

    def get_read_url(self) -> URL:
        """Return the replica's URL, or the primary's if there is no replica."""
        return self.get_url() if self.read_url is None else _database_url(self.read_url.get_secret_value())

    def get_direct_url(self) -> URL:
        """Return the URL of the database server itself, without a pooler."""
        return self.get_url() if self.direct_url is None else _database_url(self.direct_url.get_secret_value())

    def get_database_url(self) -> str:
        """Return the URL as text, including the password."""
        return self.get_url().render_as_string(hide_password=False)


def check_is_fit(url: URL, environment: Environment) -> None:
    """Raise ValueError for SQLite in PROD, and for a database without a password in UAT and PROD.

    A Unix socket (`?host=/run/postgresql`) needs no password: the operating system authenticates the user.
    """
    if environment is Environment.PROD and url.get_backend_name() == "sqlite":
        raise ValueError("is SQLite, which is refused in prod: use a PostgreSQL database")
    on_socket = str(url.query.get("host", url.host or "/")).startswith("/")
    over_network = url.get_backend_name() == "postgresql" and not on_socket
    has_password = bool(url.password) or "passfile=" in str(url.query.get("dsn"))
    if environment in {Environment.UAT, Environment.PROD} and over_network and not has_password:
        raise ValueError(f"has no password, which is required in {environment}")


def check_is_direct(direct: URL, url: URL) -> None:
    """Raise ValueError for a direct URL on SQLite, which has no pooler."""
    if direct != url and "sqlite" in {direct.get_backend_name(), url.get_backend_name()}:
        raise ValueError("is for PostgreSQL behind a pooler: remove it on SQLite")


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


class LogSettings(SettingsGroup):
    """The level and the format of the log."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default_factory=lambda data: "DEBUG" if data.get("environment") is Environment.LOCAL else "INFO"
    )
    format: Literal["console", "json"] = Field(
        default_factory=lambda data: "console" if data.get("environment") is Environment.LOCAL else "json"
    )


def address(text: str) -> str:
    """Return the address of a module without a trailing slash. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("is not an address like http://images:8000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must not contain a user, password or query: INTERNAL_SECRET authenticates the caller")
    return text.rstrip("/")


class ModuleSettings(SettingsGroup):
    """The settings that every module has. A module adds its own in a subclass in its `settings.py`.

    The prefix is the module's name: `EVENTS_DATABASE_URL`.
    """

    # The address of the module, such as http://images:8000, for processes in which it is not enabled. They call its
    # contracts there.
    url: str | None = None
    # The module's own database. On SQLite this names the file.
    database_url: SecretStr | None = None
    database_read_url: SecretStr | None = None
    # PostgreSQL itself, if the URL above leads to a pooler: see DATABASE_DIRECT_URL.
    database_direct_url: SecretStr | None = None
    # The largest request body. A larger one is answered 413.
    max_body_bytes: int = Field(1 << 20, ge=0)

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return value and address(value)

    @field_validator("database_url", "database_read_url", "database_direct_url")
    @classmethod
    def _is_fit(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is not None:
            _refuse_connect_timeout(value.get_secret_value())
            check_is_fit(_database_url(value.get_secret_value()), info.data.get("environment", Environment.LOCAL))
        return value

    @field_validator("database_direct_url")
    @classmethod
    def _is_direct(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        own = info.data.get("database_url")
        if value is not None and own is None:
            raise ValueError("needs the module's own DATABASE_URL: set it, too")
        if value is not None:
            check_is_direct(*(_database_url(one.get_secret_value()) for one in (value, own)))
        return value

    def get_url(self) -> URL | None:
        """Return the URL of this module's own database, if it has one."""
        return None if self.database_url is None else _database_url(self.database_url.get_secret_value())

    def get_read_url(self) -> URL | None:
        """Return the URL of this module's own replica, if it has one."""
        return None if self.database_read_url is None else _database_url(self.database_read_url.get_secret_value())

    def get_direct_url(self) -> URL | None:
        """Return the URL of this module's own database without a pooler, if there is one."""
        return None if self.database_direct_url is None else _database_url(self.database_direct_url.get_secret_value())


CORE_GROUPS: Sequence[tuple[str, type[SettingsGroup]]] = (
    ("application", ApplicationSettings),
    ("database", DatabaseConfig),
    ("http_client", HttpClientSettings),
    ("cors", CorsSettings),
    ("log", LogSettings),
)
