"""The settings of the shared database, and of modules, which may have databases of their own."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import URL

from kernel.settings.database_url import read_database_url
from kernel.settings.groups import SettingsGroup
from kernel.settings.sources import Environment


def _checked(value: SecretStr, info: ValidationInfo) -> SecretStr:
    """Return the URL of a database that may be used in this environment. Raises ValueError."""
    url, connect_timeout_seconds = read_database_url(value.get_secret_value())
    if connect_timeout_seconds is not None and info.field_name != "url":
        raise ValueError(
            "has connect_timeout, but all databases share one: remove it, and set DATABASE_CONNECT_TIMEOUT_SECONDS"
        )
    _refuse_unsafe(url, info.data.get("environment", Environment.LOCAL))
    return value


DatabaseSecret = Annotated[SecretStr, AfterValidator(_checked)]
"""The URL of a database in the format of libpq, or `sqlite:///...`."""


def _refuse_unsafe(url: URL, environment: Environment) -> None:
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


def _refuse_direct_on_sqlite(direct: URL, url: URL) -> None:
    if "sqlite" in {direct.get_backend_name(), url.get_backend_name()}:
        raise ValueError("is for PostgreSQL behind a pooler: remove it on SQLite")


def _read(secret: SecretStr | None) -> URL | None:
    """Return a database URL for SQLAlchemy, with an asynchronous driver."""
    return None if secret is None else read_database_url(secret.get_secret_value()).url


def _connect_timeout(data: Mapping[str, Any]) -> float:
    url = data.get("url")
    return (read_database_url(url.get_secret_value()).connect_timeout_seconds if url else None) or 2


class DatabaseConfig(SettingsGroup):
    """The shared database and its connection pool. `<MODULE>_DATABASE_URL` gives a module its own database.

    Set `DATABASE_URL`, or `DATABASE_HOST` with the port, user, password and name. On SQLite the URL names a folder
    (`sqlite:///data`) that contains one file per module.
    """

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    url: DatabaseSecret | None = None
    # A replica that serves GET and HEAD requests.
    read_url: DatabaseSecret | None = None
    # PostgreSQL itself, if DATABASE_URL leads to a pooler in transaction mode: migrations and LISTEN need a session of
    # their own. The default is DATABASE_URL.
    direct_url: DatabaseSecret | None = None
    host: str | None = None
    port: int = Field(5432, ge=1, le=65535)
    user: str | None = None
    password: SecretStr | None = None
    name: str | None = None

    # Connections that each process keeps, and additional ones under load. The sum over all processes must stay below
    # the server's max_connections.
    pool_size: int = Field(5, ge=1)
    max_overflow: int = Field(10, ge=0)
    # How long a request waits for a connection before it is answered 503, in total within a second.
    pool_timeout_seconds: float = Field(0.75, gt=0)
    # Shorter than the idle limits of common proxies and firewalls.
    pool_recycle_seconds: int = Field(3600, ge=1)
    # Test each connection before the ORM uses it. Statements on the driver need no test: if the connection is dead,
    # they are repeated on a new one.
    pool_pre_ping: bool = True
    # PostgreSQL: the mode of the connection pooler (PgBouncer) in DATABASE_URL. In `transaction` mode the server
    # connection may change after each transaction: so every statement, reads included, runs in a transaction, sets its
    # role there (SET LOCAL ROLE), and is prepared without a name.
    pooler: Literal["none", "session", "transaction"] = "none"
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

    @model_validator(mode="after")
    def _is_complete_and_safe(self) -> "DatabaseConfig":
        if self.url and self.host:
            raise ValueError("DATABASE_URL and DATABASE_HOST are both set: keep one of them")
        if self.host and not (self.user and self.name):
            raise ValueError("DATABASE_HOST needs DATABASE_USER and DATABASE_NAME: set them, too")
        if not (self.url or self.host) and self.environment is not Environment.LOCAL:
            raise ValueError(f"DATABASE_URL is required in {self.environment} (or DATABASE_HOST and its parts)")
        variable = "DATABASE_URL"
        try:
            _refuse_unsafe(self.get_url(), self.environment)
            variable = "DATABASE_DIRECT_URL"
            if self.direct_url is not None:
                _refuse_direct_on_sqlite(self.get_direct_url(), self.get_url())
        except ValueError as error:
            raise ValueError(f"{variable} {error}") from None
        return self

    def get_url(self) -> URL:
        """Return the URL for SQLAlchemy, with an asynchronous driver."""
        if self.host is not None:
            password = self.password.get_secret_value() if self.password else None
            return URL.create("postgresql+asyncpg", self.user, password, self.host, self.port, self.name)
        return read_database_url(self.url.get_secret_value() if self.url else "sqlite:///data").url

    def get_read_url(self) -> URL:
        """Return the replica's URL, or the primary's if there is no replica."""
        return _read(self.read_url) or self.get_url()

    def get_direct_url(self) -> URL:
        """Return the URL of the database server itself, without a pooler."""
        return _read(self.direct_url) or self.get_url()

    def get_database_url(self) -> str:
        """Return the URL as text, including the password."""
        return self.get_url().render_as_string(hide_password=False)


class ModuleAddress(SettingsGroup):
    """The setting of a module that matters to processes in which it does not run."""

    # The address of the module, such as http://images:8000, for processes in which it is not enabled. They call its
    # contracts there.
    url: str | None = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError("is not an address like http://images:8000")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("must not contain a user, password or query: INTERNAL_SECRET authenticates the caller")
        return value.rstrip("/")


class ModuleSettings(ModuleAddress):
    """The settings that every module has. A module adds its own in a subclass in its `settings.py`.

    The prefix is the module's name: `EVENTS_DATABASE_URL`.
    """

    # The module's own database. On SQLite this names the file.
    database_url: DatabaseSecret | None = None
    database_read_url: DatabaseSecret | None = None
    # PostgreSQL itself, if the URL above leads to a pooler: see DATABASE_DIRECT_URL.
    database_direct_url: DatabaseSecret | None = None
    # The largest request body. A larger one is answered 413.
    max_body_bytes: int = Field(1 << 20, ge=0)

    @field_validator("database_direct_url")
    @classmethod
    def _is_direct(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (direct := _read(value)) is not None:
            if (own := _read(info.data.get("database_url"))) is None:
                raise ValueError("needs the module's own DATABASE_URL: set it, too")
            _refuse_direct_on_sqlite(direct, own)
        return value

    def get_url(self) -> URL | None:
        """Return the URL of this module's own database, if it has one."""
        return _read(self.database_url)

    def get_read_url(self) -> URL | None:
        """Return the URL of this module's own replica, if it has one."""
        return _read(self.database_read_url)

    def get_direct_url(self) -> URL | None:
        """Return the URL of this module's own database without a pooler, if there is one."""
        return _read(self.database_direct_url)
