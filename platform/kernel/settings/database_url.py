"""Translate database URLs in the format of libpq (psql, psycopg, dashboards of providers) for SQLAlchemy and asyncpg.

asyncpg accepts most of libpq's parameters, but only in a DSN. They are passed in the parameter `dsn` of SQLAlchemy's
URL, so that every connection gets them: pools, migrations, roles and LISTEN.
"""

import re
import ssl
from typing import NamedTuple
from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
# The parameters that SQLAlchemy reads from its URL.
OF_SQLALCHEMY = frozenset({"host", "port", "prepared_statement_cache_size"})
# Parameters that are ignored if they have one of these values, which match the behaviour of asyncpg.
WITHOUT_EFFECT = {
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "client_encoding": {"auto", "utf8", "utf-8"},
    "sslcompression": {"0"},
    "sslsni": {"1"},
}
_SEVERAL_HOSTS = re.compile(r"(?P<before>[^/]+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>[/?].*|)")


class DatabaseUrl(NamedTuple):
    """A URL for SQLAlchemy, and its `connect_timeout`, which is passed to the engine instead."""

    url: URL
    connect_timeout_seconds: float | None


def read_database_url(text: str) -> DatabaseUrl:
    """Translate a database URL; `postgres://` and `sqlite://` work, too. Raises ValueError without any secret."""
    if "@" in text.partition("?")[2]:
        raise ValueError('has an "@" after a "?": write ?, &, @ and / in the password as %3F, %26, %40 and %2F')
    several = _SEVERAL_HOSTS.fullmatch(text)
    try:
        url = make_url(several["before"] + several["after"] if several else text)
    except (ArgumentError, ValueError):  # its message repeats an invalid port, which may be a part of the password
        raise ValueError("is not a database URL like postgresql://user:password@host:5432/name") from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.drivername not in _DRIVERS.values():
        raise ValueError("must begin with postgresql:// or sqlite://")
    if url.get_backend_name() == "sqlite":
        return DatabaseUrl(url, None)
    return _postgresql(url, several["hosts"] if several else None)


def _postgresql(url: URL, hosts: str | None) -> DatabaseUrl:
    kept = {name: value for name, value in url.query.items() if name in OF_SQLALCHEMY}
    given = {
        "sslmode" if name == "ssl" else name: value if isinstance(value, str) else value[-1]
        for name, value in url.query.items()
        if name not in OF_SQLALCHEMY
    }
    if hosts is not None:
        places = [host.partition(":") for host in hosts.split(",")]
        if not all(host and (port or "5432").isdecimal() for host, _, port in places):
            raise ValueError("names several hosts: write each as host or host:port")
        kept |= {
            "host": ",".join(host for host, _, _ in places),
            "port": ",".join(port or "5432" for _, _, port in places),
        }
    url = url.set(
        username=given.pop("user", url.username),
        password=given.pop("password", url.password),
        database=given.pop("dbname", url.database),
    )
    seconds = _connect_timeout(given.pop("connect_timeout", None))
    of_driver = _of_driver(given)
    if of_driver:
        kept["dsn"] = f"postgresql://?{urlencode(of_driver)}"
    return DatabaseUrl(url.set(query=kept), seconds)


def _connect_timeout(text: str | None) -> float | None:
    if text is not None and not (text.isdecimal() and int(text) > 0):
        raise ValueError("has a connect_timeout that is not a number of seconds above 0")
    return None if text is None else float(text)


def _of_driver(given: dict[str, str]) -> dict[str, str]:
    """Return the parameters for asyncpg's DSN."""
    if (name := given.pop("fallback_application_name", None)) is not None:
        given.setdefault("application_name", name)
    if given.get("sslrootcert") == "system":
        paths = ssl.get_default_verify_paths()
        given["sslrootcert"] = paths.cafile or paths.openssl_cafile
        given.setdefault("sslmode", "verify-full")
    return {name: value for name, value in given.items() if value.lower() not in WITHOUT_EFFECT.get(name, ())}
