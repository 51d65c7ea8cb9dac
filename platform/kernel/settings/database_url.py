"""Translate database URLs in the format of libpq (psql, psycopg, dashboards of providers) for SQLAlchemy and asyncpg.

asyncpg accepts most of libpq's parameters, but only in a DSN. They are passed in the parameter `dsn` of SQLAlchemy's
URL, so that every connection gets them: pools, migrations, roles and LISTEN.
"""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# The parameters that asyncpg reads from a DSN, with the allowed values; None means any.
_OF_DRIVER: Mapping[str, tuple[str, ...] | None] = {
    "sslmode": _SSL_MODES,
    "sslrootcert": None,
    "sslcert": None,
    "sslkey": None,
    "sslcrl": None,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "application_name": None,
    "options": None,
    "passfile": None,
}
# The parameters that SQLAlchemy reads from its URL.
_OF_SQLALCHEMY = frozenset({"host", "port", "prepared_statement_cache_size"})
# Parameters that are ignored if they have one of these values, which match the behaviour of asyncpg.
_WITHOUT_EFFECT = {
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "client_encoding": {"auto", "utf8", "utf-8"},
    "sslcompression": {"0"},
    "sslsni": {"1"},
}
_OF_SQLITE = frozenset({"cached_statements", "check_same_thread", "detect_types", "timeout", "uri"})
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
        _check_sqlite(url)
        return DatabaseUrl(url, None)
    return _postgresql(url, several["hosts"] if several else None)


def _check_sqlite(url: URL) -> None:
    unknown = [] if "uri" in url.query else sorted(url.query.keys() - _OF_SQLITE)
    if unknown:
        raise ValueError(f"has the parameter {unknown[0]}, which SQLite does not support: remove it")


def _postgresql(url: URL, hosts: str | None) -> DatabaseUrl:
    kept = {name: value for name, value in url.query.items() if name in _OF_SQLALCHEMY}
    given: dict[str, str] = {}
    for name, value in url.query.items():
        if name in _OF_SQLALCHEMY:
            continue
        if not isinstance(value, str):
            raise ValueError(f"has the parameter {name} more than once: keep one")  # noqa: TRY004  # pydantic expects ValueError
        given["sslmode" if name == "ssl" else name] = value
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
    """Return the parameters for asyncpg's DSN. Raises ValueError for parameters that would have no effect."""
    if (name := given.pop("fallback_application_name", None)) is not None:
        given.setdefault("application_name", name)
    if given.get("channel_binding") == "require":
        raise ValueError(
            "has channel_binding=require, which asyncpg does not support: remove it, and use sslmode=verify-full "
            "with sslrootcert, which verifies the server by its certificate"
        )
    found: dict[str, str] = {}
    for name, value in given.items():
        if name in _WITHOUT_EFFECT:
            if value.lower() not in _WITHOUT_EFFECT[name]:
                raise ValueError(f"has a {name} that the driver asyncpg does not support: remove it")
            continue
        if name not in _OF_DRIVER:
            raise ValueError(
                f"has the parameter {name}, which is not supported. Supported are "
                f"{', '.join(sorted({*_OF_DRIVER, *_WITHOUT_EFFECT, 'connect_timeout'}))}. "
                "Settings of the server go into options, as in options=-c%20statement_timeout%3D5000"
            )
        allowed = _OF_DRIVER[name]
        if allowed is not None and value not in allowed:
            raise ValueError(f"has an invalid {name}: use one of {', '.join(allowed)}")
        found[name] = value
    _verify_tls(found)
    return found


def _verify_tls(found: dict[str, str]) -> None:
    """Replace `sslrootcert=system` by a file, and verify that the certificate files can be read."""
    if found.get("sslrootcert") == "system":
        if found.setdefault("sslmode", "verify-full") != "verify-full":
            raise ValueError("has sslrootcert=system, which needs sslmode=verify-full")
        paths = ssl.get_default_verify_paths()
        found["sslrootcert"] = paths.cafile or paths.openssl_cafile
    mode = found.get("sslmode", "prefer")
    if found.get("sslnegotiation") == "direct" and _SSL_MODES.index(mode) < _SSL_MODES.index("require"):
        raise ValueError("has sslnegotiation=direct, which needs sslmode=require, verify-ca or verify-full")
    if mode.startswith("verify-") and not ("sslrootcert" in found or _has_default_authority()):
        raise ValueError(
            f"has sslmode={mode} but no sslrootcert: set it to the file with the authority's certificate, or to "
            "`system` for the authorities that this machine trusts"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl"):
        if name in found:
            with _reading(name, found[name]):
                context.load_verify_locations(found[name])
    if "sslcert" in found:
        with _reading("sslcert (or its sslkey)", found["sslcert"]):
            context.load_cert_chain(found["sslcert"], found.get("sslkey"), password="")
    elif "sslkey" in found:
        raise ValueError("has sslkey without sslcert: add the certificate")


def _has_default_authority() -> bool:
    return "PGSSLROOTCERT" in os.environ or (Path.home() / ".postgresql" / "root.crt").exists()


@contextmanager
def _reading(name: str, path: str) -> Iterator[None]:
    """Turn an error of reading a file into a ValueError that names the file."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"has an {name} that cannot be read: {path} ({error.strerror or error})") from None
