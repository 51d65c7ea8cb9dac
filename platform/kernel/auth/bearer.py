"""Who asks, by the bearer token of the request (RFC 6750).

PyJWT is imported by the first token: it brings `cryptography`, which would be a tenth of every start.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
from starlette.requests import HTTPConnection

from kernel.auth import local_key
from kernel.auth.jwks import Keys
from kernel.auth.principal import Principal
from kernel.http_client.client import HttpxRestClientPool
from kernel.settings import AuthSettings, Environment
from kernel.web.problems import Unauthorized

_log = structlog.get_logger("kernel.security")

DEVELOPER = Principal("developer", frozenset({"*"}))

_LONGEST_TOKEN = 8192
_MOST_SUBJECT = 255
# A token that held is believed without another look for so long, unless it expires before. Signatures are dear.
_REMEMBERED_SECONDS = 60
_MOST_REMEMBERED = 10_000


class Refused(Exception):
    """A token that does not hold; says why, for the log. The caller is told less."""


class BearerTokens:
    """The Authentication of the application."""

    def __init__(self, settings: AuthSettings, http: HttpxRestClientPool, root: Path) -> None:
        self._settings = settings
        self._keys = Keys(settings, http)
        self._local_key = local_key.path(root) if settings.environment is Environment.LOCAL else None
        self._remembered: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """See kernel.auth.principal."""
        token = _token_of(connection)
        if token is None:
            return None if self._settings.enabled else DEVELOPER
        name = hashlib.sha256(token).digest()
        known = self._remembered.get(name)
        if known is not None and known[1] > time.time():
            return known[0]
        try:
            principal, expires_at = await self._verify(token)
        except Refused as refusal:
            _log.info("token refused", reason=str(refusal))
            raise unauthorized("invalid_token", "The token does not hold. Get a new one.") from None
        self._remembered[name] = (principal, min(expires_at, time.time() + _REMEMBERED_SECONDS))
        self._remembered.move_to_end(name)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    async def _verify(self, token: bytes) -> tuple[Principal, float]:
        """Who the token names, and until when (Unix time). Raises Refused, and Unavailable as Keys."""
        import jwt  # noqa: PLC0415

        settings = self._settings
        if len(token) > _LONGEST_TOKEN:
            raise Refused("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            name = str(header.get("kid", ""))
            if self._local_key is not None and name == local_key.NAME:
                key, algorithms, issuer, audience = local_key.public(self._local_key), ["EdDSA"], local_key.NAME, None
            elif settings.issuer is None or settings.audience is None:
                raise Refused("no AUTH_ISSUER and AUTH_AUDIENCE are set")
            else:
                found = await self._keys.find(name)
                if found is None:
                    raise Refused("its key is not among the issuer's")
                key, algorithms, issuer, audience = (
                    found.key, list(settings.algorithms), settings.issuer, settings.audience
                )  # fmt: skip
            claims = jwt.decode(
                token, key, algorithms, issuer=issuer, audience=audience, leeway=settings.clock_leeway_seconds,
                options={"require": ["exp", "sub", "iss"], "verify_aud": audience is not None},
            )  # fmt: skip
            expires_at = float(claims["exp"]) + settings.clock_leeway_seconds
        # What a token may hold is anybody's choice until its signature is checked.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        # Of OpenID Connect at most 255 ASCII characters; it becomes a key of databases, and stands in logs.
        if not (0 < len(claims["sub"]) <= _MOST_SUBJECT and claims["sub"].isprintable()):
            raise Refused(f"its sub is not 1 to {_MOST_SUBJECT} printable characters")
        return Principal(claims["sub"], frozenset(_scopes(claims, settings)), issuer), expires_at


def unauthorized(error: str | None, detail: str) -> Unauthorized:
    """401 with the challenge of RFC 6750, section 3; `error` is None where no token was sent."""
    challenge = 'Bearer realm="api"' + (f', error="{error}"' if error else "")
    return Unauthorized(detail, headers={"WWW-Authenticate": challenge})


def _token_of(connection: HTTPConnection) -> bytes | None:
    """The bearer token of a request. Raises Unauthorized for two: which one counts, others may see otherwise."""
    found = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    if not found:
        return None
    if len(found) > 1:
        raise unauthorized("invalid_request", "Send one Authorization header.")
    scheme, _, token = found[0].partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def _scopes(claims: Mapping[str, Any], settings: AuthSettings) -> Iterator[str]:
    yield from _words(claims, settings.scopes_claim)
    for role in _words(claims, settings.roles_claim):
        yield from settings.roles.get(role, ())


def _words(claims: Mapping[str, Any], name: str) -> Iterator[str]:
    """What a claim lists, as a text or as a list; a dot in its name leads deeper, where it is not part of the name."""
    found: Any = claims
    for part in [name] if name in claims else name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        yield from found.split()
    elif isinstance(found, list):
        yield from (word for word in found if isinstance(word, str))
