"""Verify the parameters of database URLs in the format of libpq."""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from kernel.settings.database_url import OF_SQLALCHEMY, WITHOUT_EFFECT

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
_READ_BY_THE_CORE = frozenset({"connect_timeout", "dbname", "fallback_application_name", "password", "user"})
_OF_SQLITE = frozenset({"cached_statements", "check_same_thread", "detect_types", "timeout", "uri"})


def check_parameters(text: str) -> None:
    """Raise ValueError, without any secret, for a parameter of a database URL that would have no effect or fail."""
    parts = urlsplit(text)
    given = parse_qsl(parts.query, keep_blank_values=True)
    if parts.scheme.startswith("sqlite"):
        unknown = sorted({name for name, _ in given} - _OF_SQLITE)
        if unknown and "uri" not in dict(given):
            raise ValueError(f"has the parameter {unknown[0]}, which SQLite does not support: remove it")
        return
    found: dict[str, str] = {}
    for name, value in (("sslmode" if name == "ssl" else name, value) for name, value in given):
        if name in OF_SQLALCHEMY or name in _READ_BY_THE_CORE:
            continue
        if name in found:
            raise ValueError(f"has the parameter {name} more than once: keep one")
        _check(name, value)
        found[name] = value
    _verify_tls(found)


def _check(name: str, value: str) -> None:
    if name == "channel_binding" and value == "require":
        raise ValueError(
            "has channel_binding=require, which asyncpg does not support: remove it, and use sslmode=verify-full "
            "with sslrootcert, which verifies the server by its certificate"
        )
    if name in WITHOUT_EFFECT:
        if value.lower() not in WITHOUT_EFFECT[name]:
            raise ValueError(f"has a {name} that the driver asyncpg does not support: remove it")
        return
    if name not in _OF_DRIVER:
        raise ValueError(
            f"has the parameter {name}, which is not supported. Supported are "
            f"{', '.join(sorted({*_OF_DRIVER, *WITHOUT_EFFECT, 'connect_timeout'}))}. "
            "Settings of the server go into options, as in options=-c%20statement_timeout%3D5000"
        )
    allowed = _OF_DRIVER[name]
    if allowed is not None and value not in allowed:
        raise ValueError(f"has an invalid {name}: use one of {', '.join(allowed)}")


def _verify_tls(found: dict[str, str]) -> None:
    """Raise ValueError for modes of TLS that need something else, and for certificate files that cannot be read."""
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
