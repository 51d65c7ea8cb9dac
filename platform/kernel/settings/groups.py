"""The typed groups of settings: a prefix each, and for each field its meaning, its unit and why this default."""

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

# The sources and the prefix of the group that is being read; unset, a group reads those of the working directory.
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
    """One layer, parsed the way pydantic-settings parses environment variables; empty text counts as not given."""

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
        """The name of the variable that sets `field_name`."""
        alias = cls.model_fields[field_name].validation_alias
        own_prefix = cls.model_config.get("env_prefix", "") if prefix is None else prefix
        return alias if isinstance(alias, str) else f"{own_prefix}{field_name}".upper()


class ApplicationSettings(SettingsGroup):
    """What the application is called and which of its modules run."""

    model_config = SettingsConfigDict(env_prefix="APPLICATION_")

    title: str = "Application"
    # From the project's pyproject.toml, unless it is set.
    version: str = "0.0.0"
    # Tracebacks in error answers.
    debug: bool = Field(default_factory=lambda data: data.get("environment") in {Environment.LOCAL, Environment.DEV})
    # None: all that are found in modules/.
    enabled_modules: Names | None = Field(None, validation_alias="ENABLED_MODULES")
    # Put the dependencies of a route in order once instead of at every request (kernel/ext/fast/endpoint.py).
    compiled_endpoints: bool = True
    # Asking another module inside a transaction that has written is an error; where off, a warning once.
    strict_contract_calls: bool = Field(default_factory=lambda data: data.get("environment") is Environment.LOCAL)
    secrets_dir: Path = Field(Path("/mnt/secrets"), validation_alias="SECRETS_DIR")

    @property
    def openapi_url(self) -> str | None:
        """Return the path of the OpenAPI document; None in PROD, which serves none."""
        return None if self.environment is Environment.PROD else "/openapi.json"

    @property
    def migrates_at_start(self) -> bool:
        """Whether the start applies migrations; elsewhere it only verifies that there are none to apply."""
        return self.environment is Environment.LOCAL

    @field_validator("debug")
    @classmethod
    def _no_debug_in_production(cls, value: bool, info: Any) -> bool:
        if value and info.data.get("environment") in {Environment.UAT, Environment.PROD}:
            raise ValueError(f"must be off in {info.data['environment']}: it shows tracebacks to callers")
        return value


def _database_url(text: str) -> URL:
    """Return a database's URL as SQLAlchemy takes it, with its asynchronous driver. Raises ValueError."""
    return read_database_url(text).url


def _connect_timeout(data: Mapping[str, Any]) -> float:
    url = data.get("url")
    return (read_database_url(url.get_secret_value()).connect_timeout_seconds if url else None) or 2


def _refuse_connect_timeout(text: str) -> None:
    if read_database_url(text).connect_timeout_seconds is not None:
        raise ValueError(
            "has connect_timeout, which all databases share: remove it, and set DATABASE_CONNECT_TIMEOUT_SECONDS"
        )


class DatabaseConfig(SettingsGroup):
    """The database that all modules share, unless one has `<MODULE>_DATABASE_URL`, and its connection pool.

    Either `DATABASE_URL`, or `DATABASE_HOST` with the port, user, password and name beside it. On SQLite the URL
    names a folder (`sqlite:///data`), in which each module has a file of its own.
    """

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    url: SecretStr | None = None
    # A replica: GET and HEAD requests read from it.
    read_url: SecretStr | None = None
    # PostgreSQL itself where DATABASE_URL leads to a pooler: migrations and LISTEN need a session of their own, which a
    # pooler in transaction mode does not give. Unset, it is DATABASE_URL.
    direct_url: SecretStr | None = None
    # By how much it may be behind: for so long after a change nothing that the change concerns is kept by `cached`.
    read_lag_seconds: float = Field(5, ge=0)
    host: str | None = None
    port: int = Field(5432, ge=1, le=65535)
    user: str | None = None
    password: SecretStr | None = None
    name: str | None = None

    # Connections that each process keeps, and how many more it may open under load. All processes together must stay
    # below the server's max_connections.
    pool_size: int = Field(5, ge=1)
    max_overflow: int = Field(10, ge=0)
    # How long those above pool_size are kept when nobody needs them.
    pool_overflow_lingers_seconds: float = Field(30, gt=0)
    # How long a request waits for a connection before it is answered 503: within a second, all in all.
    pool_timeout_seconds: float = Field(0.75, gt=0)
    # How much of a pool a single module may hold, in percent of pool_size + max_overflow, at least one connection; only
    # where several modules with tables share it. Past that its requests wait so long, then they are answered 503.
    pool_share_percent: int = Field(60, ge=1, le=100)
    pool_share_timeout_seconds: float = Field(0.75, gt=0)
    # Below the idle limits of common proxies and firewalls.
    pool_recycle_seconds: int = Field(3600, ge=1)
    # Ask each connection for a sign of life before the ORM gets it. Statements that run on the driver need none: one
    # that meets a dead connection is repeated on a new one, which costs nothing as long as all live.
    pool_pre_ping: bool = True
    # After so long a pause the driver's connections are asked, too: what a firewall dropped gives no answer at all.
    pool_ping_after_idle_seconds: float = Field(30, ge=0)
    # Run compiled statements on the driver itself where the ORM is not needed (kernel/ext/fast/driver.py).
    direct_statements: bool = True
    # PostgreSQL: each module's sessions run under a role of its own, with rights in its own schema only. The roles must
    # be there (`kernel roles --apply`); in local the start makes them.
    role_per_module: bool = False
    # PostgreSQL: the mode of the connection pooler (PgBouncer) that DATABASE_URL leads to. In `transaction` mode the
    # server connection changes with each transaction, so nothing may live longer than one: every statement, also of a
    # read, runs in a transaction, takes its role there (SET LOCAL ROLE), and is prepared without a name.
    pooler: Literal["none", "session", "transaction"] = "none"
    # What the roles' names begin with. They belong to the whole server; unset, it is the database's name and a dot.
    role_prefix: str | None = None
    # asyncpg would wait 60 s to connect and for ever on a command. A lost packet is sent again after a second. The
    # default is the `connect_timeout` in DATABASE_URL, or else 2.
    connect_timeout_seconds: float = Field(default_factory=_connect_timeout, gt=0)
    # For slow statements: that a database does not answer at all shows within two seconds (see ext/pool/watchdog.py).
    command_timeout_seconds: float = Field(30, gt=0)
    # SQLite: how long a writer waits for another process's write.
    busy_timeout_seconds: float = Field(5, ge=0)
    # Migrations: how long to wait for another process that is migrating, for a table lock, and for one statement.
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
            raise ValueError("DATABASE_HOST needs DATABASE_USER and DATABASE_NAME beside it")
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
        """The URL as SQLAlchemy takes it, with its asynchronous driver."""
        if self.url is not None:
            return _database_url(self.url.get_secret_value())
        if self.host is not None:
            password = self.password.get_secret_value() if self.password else None
            return URL.create("postgresql+asyncpg", self.user, password, self.host, self.port, self.name)
        return _database_url("sqlite:///data")

    def get_read_url(self) -> URL:
        """The replica's URL, or the primary's where there is no replica."""
        return self.get_url() if self.read_url is None else _database_url(self.read_url.get_secret_value())

    def get_direct_url(self) -> URL:
        """The URL that leads to the database server itself, past a pooler."""
        return self.get_url() if self.direct_url is None else _database_url(self.direct_url.get_secret_value())

    def get_database_url(self) -> str:
        """The URL as text, with the password in it."""
        return self.get_url().render_as_string(hide_password=False)


def check_is_fit(url: URL, environment: Environment) -> None:
    """Raise ValueError where a database is unfit for an environment: SQLite in PROD, no password in UAT and PROD.

    A Unix socket (`?host=/run/postgresql`) needs no password: the operating system says who connects.
    """
    if environment is Environment.PROD and url.get_backend_name() == "sqlite":
        raise ValueError("is SQLite, which is refused in prod: name a PostgreSQL database")
    on_socket = str(url.query.get("host", url.host or "/")).startswith("/")
    over_network = url.get_backend_name() == "postgresql" and not on_socket
    has_password = bool(url.password) or "passfile=" in str(url.query.get("dsn"))
    if environment in {Environment.UAT, Environment.PROD} and over_network and not has_password:
        raise ValueError(f"has no password, which is required in {environment}")


def check_is_direct(direct: URL, url: URL) -> None:
    """Raise ValueError unless `direct` can be another way to the database at `url`."""
    if direct != url and "sqlite" in {direct.get_backend_name(), url.get_backend_name()}:
        raise ValueError("is another way to a PostgreSQL database, past a pooler: leave it out on SQLite")


class HttpClientSettings(SettingsGroup):
    """The pool of outgoing HTTP connections that all modules share. Timeouts are in seconds."""

    model_config = SettingsConfigDict(env_prefix="HTTP_CLIENT_")

    max_connections: int = Field(100, ge=1)
    max_keepalive_connections: int = Field(20, ge=0)
    keepalive_expiry_seconds: float = Field(30, gt=0)
    http2: bool = True
    connect_timeout_seconds: float = Field(5, gt=0)
    # Per chunk: an upstream that drips never reaches it. The total timeout does.
    read_timeout_seconds: float = Field(10, gt=0)
    write_timeout_seconds: float = Field(10, gt=0)
    pool_timeout_seconds: float = Field(5, gt=0)
    # For one call with all its tries and the whole body.
    total_timeout_seconds: float = Field(30, gt=0)
    # The largest body of an answer, as it arrives and after its decompression: a body that is read whole is in memory.
    max_answer_bytes: int = Field(100 << 20, ge=1)
    # Certificates to trust beside the system's, in PEM.
    ca_file: Path | None = None


class CorsSettings(SettingsGroup):
    """Which web pages of other origins may call the API."""

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
            raise ValueError("CORS_ALLOW_ORIGINS may not be * in prod: list the origins")
        if "*" in self.allow_origins and self.allow_credentials:
            raise ValueError("CORS_ALLOW_CREDENTIALS needs listed origins in CORS_ALLOW_ORIGINS, not *")
        return self


class LogSettings(SettingsGroup):
    """How much is logged, and for whom: people or machines."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default_factory=lambda data: "DEBUG" if data.get("environment") is Environment.LOCAL else "INFO"
    )
    format: Literal["console", "json"] = Field(
        default_factory=lambda data: "console" if data.get("environment") is Environment.LOCAL else "json"
    )


def address(text: str) -> str:
    """Where a module runs, without a slash at its end. Raises ValueError, as urlsplit does for a port of letters."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("is no address like http://images:8000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("may hold no user, password or query: INTERNAL_SECRET says who asks")
    return text.rstrip("/")


class ModuleSettings(SettingsGroup):
    """What every module has; a module with settings of its own derives from this in its `settings.py`.

    The prefix is the module's name: `EVENTS_DATABASE_URL`.
    """

    # Where the module runs, for processes whose ENABLED_MODULES does not name it: http://images:8000. They ask its
    # contracts there.
    url: str | None = None
    # Moves this module to a database of its own. On SQLite this names the file.
    database_url: SecretStr | None = None
    database_read_url: SecretStr | None = None
    # PostgreSQL itself where the URL above leads to a pooler (DATABASE_DIRECT_URL).
    database_direct_url: SecretStr | None = None
    # The largest request body, in bytes; more is answered 413.
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
            raise ValueError("is another way to this module's own database, whose DATABASE_URL is not set")
        if value is not None:
            check_is_direct(*(_database_url(one.get_secret_value()) for one in (value, own)))
        return value

    def get_url(self) -> URL | None:
        """This module's own database, if it has one."""
        return None if self.database_url is None else _database_url(self.database_url.get_secret_value())

    def get_read_url(self) -> URL | None:
        """This module's own replica, if it has one."""
        return None if self.database_read_url is None else _database_url(self.database_read_url.get_secret_value())

    def get_direct_url(self) -> URL | None:
        """The way to this module's own database past a pooler, if there is one."""
        return None if self.database_direct_url is None else _database_url(self.database_direct_url.get_secret_value())


CORE_GROUPS: Sequence[tuple[str, type[SettingsGroup]]] = (
    ("application", ApplicationSettings),
    ("database", DatabaseConfig),
    ("http_client", HttpClientSettings),
    ("cors", CorsSettings),
    ("log", LogSettings),
)
