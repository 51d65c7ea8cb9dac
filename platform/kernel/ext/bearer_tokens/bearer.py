"""Authenticate callers by bearer tokens (RFC 6750).

PyJWT is imported at the first token, because importing `cryptography` would take a tenth of every start.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from starlette.requests import HTTPConnection

from kernel.auth.principal import DEVELOPER, Principal, unauthorized
from kernel.ext.bearer_tokens.jwks import Keys
from kernel.ext.bearer_tokens.settings import BearerSettings
from kernel.http_client import HttpxRestClientPool

_log = structlog.get_logger("kernel.security")

_MAX_TOKEN_BYTES = 8192
_MAX_SUBJECT = 255
# A verified token is not verified again for this long, unless it expires before: checking a signature is slow.
_CACHE_SECONDS = 60
_MAX_CACHED = 10_000


class InvalidToken(Exception):
    """A token is not valid. The message is for the log only, not for the caller."""


class TrustedKey(NamedTuple):
    """A public key, and what the tokens that it verifies must contain."""

    key: Any
    algorithms: Sequence[str]
    issuer: str
    # None: the tokens name no audience.
    audience: str | None


class BearerTokens:
    """Implements Authentication with signed JSON Web Tokens."""

    def __init__(self, settings: BearerSettings, http: HttpxRestClientPool) -> None:
        self._settings = settings
        self._keys = Keys(settings, http)
        # Finds keys that are not the issuer's, by the `kid` of their tokens.
        self.other_keys: dict[str, Callable[[], TrustedKey]] = {}
        # Verified tokens by their hash, with the time until which they count.
        self._cache: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return the caller; the developer if authentication is off and no token is sent. See Authentication."""
        token = _token_of(connection)
        if token is None:
            return None if self._settings.enabled else DEVELOPER
        digest = hashlib.sha256(token).digest()
        cached = self._cache.get(digest)
        if cached is not None and cached[1] > time.time():
            return cached[0]
        try:
            principal, expires_at = await self._verify(token)
        except InvalidToken as error:
            _log.info("token refused", reason=str(error))
            raise unauthorized("invalid_token", "The token is not valid. Get a new one.") from None
        self._cache[digest] = (principal, min(expires_at, time.time() + _CACHE_SECONDS))
        self._cache.move_to_end(digest)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return principal

    async def _verify(self, token: bytes) -> tuple[Principal, float]:
        """Return the principal and the expiry (Unix time) of a token. Raises InvalidToken and Unavailable."""
        import jwt  # noqa: PLC0415

        settings = self._settings
        if len(token) > _MAX_TOKEN_BYTES:
            raise InvalidToken("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            key_id = str(header.get("kid", ""))
            find = self.other_keys.get(key_id)
            trusted = find() if find is not None else await self._key_of_issuer(key_id)
            claims = jwt.decode(
                token, trusted.key, trusted.algorithms, issuer=trusted.issuer, audience=trusted.audience,
                leeway=settings.clock_leeway_seconds,
                options={"require": ["exp", "sub", "iss"], "verify_aud": trusted.audience is not None},
            )  # fmt: skip
            expires_at = float(claims["exp"]) + settings.clock_leeway_seconds
        # An unverified token may contain anything, hence the general exceptions.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidToken(f"{type(error).__name__}: {error}") from error
        # OpenID Connect allows at most 255 ASCII characters. The subject is stored in databases and written to logs.
        if not (0 < len(claims["sub"]) <= _MAX_SUBJECT and claims["sub"].isprintable()):
            raise InvalidToken(f"its sub is not 1 to {_MAX_SUBJECT} printable characters")
        return Principal(claims["sub"], frozenset(_scopes(claims, settings)), trusted.issuer), expires_at

    async def _key_of_issuer(self, name: str) -> TrustedKey:
        settings = self._settings
        if settings.issuer is None or settings.audience is None:
            raise InvalidToken("AUTH_ISSUER and AUTH_AUDIENCE are not set")
        found = await self._keys.find(name)
        if found is None:
            raise InvalidToken("its key is not among the issuer's")
        return TrustedKey(found.key, settings.algorithms, settings.issuer, settings.audience)


def _token_of(connection: HTTPConnection) -> bytes | None:
    """Return the bearer token of a request. Raises Unauthorized for two: a proxy may have checked the other one."""
    found = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    if not found:
        return None
    if len(found) > 1:
        raise unauthorized("invalid_request", "Send one Authorization header.")
    scheme, _, token = found[0].partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def _scopes(claims: Mapping[str, Any], settings: BearerSettings) -> Iterator[str]:
    yield from _words(claims, settings.scopes_claim)
    for role in _words(claims, settings.roles_claim):
        yield from settings.roles.get(role, ())


def _words(claims: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the words of a claim, which is a text or a list. A dot in its name leads into a nested claim."""
    found: Any = claims
    for part in [name] if name in claims else name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        yield from found.split()
    elif isinstance(found, list):
        yield from (word for word in found if isinstance(word, str))
