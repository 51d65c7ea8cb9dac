"""Authorise calls below /internal by signed tokens (RFC 7519), each for one call and until its deadline.

PyJWT is imported at the first token: it imports `cryptography`, which takes a tenth of the time of a start.
"""

import hashlib
import math
import os
import socket
import time
from typing import Any

from kernel.ext.remote.settings import InternalSettings

# In each of two periods. More calls are refused, because a repeated token could not be recognised.
_MOST_REMEMBERED = 100_000
_CLAIMS = ["iss", "aud", "sub", "iat", "exp", "jti", "body"]


class CallRefused(Exception):
    """The signature of a call is missing or invalid; the text is for the log."""


class CallSigner:
    """Signs the calls of this process, and verifies those of other processes."""

    def __init__(self, settings: InternalSettings) -> None:
        self._settings = settings
        self._issuer = socket.gethostname()
        # How long a token can be used. A token that lives longer is refused below.
        self._longest = settings.token_seconds + settings.clock_leeway_seconds + 1  # exp is in whole seconds
        self._used = UsedTokens(self._longest + settings.clock_leeway_seconds)

    def sign(self, module: str, subject: str, body: bytes, deadline: float) -> str | None:
        """Return a token for one call, valid until its deadline (Unix time) at most; None while signing is off."""
        if self._settings.is_off:
            return None
        import jwt  # noqa: PLC0415

        now = time.time()
        claims = {
            "iss": self._issuer,
            "aud": module,
            "sub": subject,
            "iat": math.floor(now),
            "exp": math.ceil(min(deadline, now + self._settings.token_seconds)),
            "jti": os.urandom(16).hex(),
            "body": hashlib.sha256(body).hexdigest(),
        }
        if self._settings.private_key is not None:
            return jwt.encode(claims, self._settings.private_key.get_secret_value(), "EdDSA")
        return jwt.encode(claims, self._settings.secrets[0], "HS256")

    def authenticate(self, token: str, module: str, subject: str) -> dict[str, Any] | None:
        """Return the claims of a token for this call, before its body is read; None while signing is off.

        Raises CallRefused. The call may only be executed after `accept` has compared the body.
        """
        if self._settings.is_off:
            return None
        if not token:
            raise CallRefused("it is not signed")
        claims = self._claims(token, module)
        if claims["sub"] != subject:
            raise CallRefused(f"the token is for {claims['sub']}")
        if int(claims["exp"]) > time.time() + self._longest:
            raise CallRefused("the token lives longer than INTERNAL_TOKEN_SECONDS allows")
        if self._used.has(str(claims["jti"])):
            raise CallRefused("the token was used before")
        return claims

    def accept(self, claims: dict[str, Any] | None, body: bytes) -> None:
        """Mark the token of an authenticated call as used.

        Raises CallRefused unless it was signed for this body and was not used before.
        """
        if claims is None:
            return
        if claims["body"] != hashlib.sha256(body).hexdigest():
            raise CallRefused("the body is not the one that was signed")
        if not self._used.is_new(str(claims["jti"])):
            raise CallRefused("the token was used before")

    def _claims(self, token: str, module: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415

        reason = "this process has no key to verify it: set INTERNAL_SECRET or INTERNAL_PUBLIC_KEYS"
        keys = [("HS256", secret) for secret in self._settings.secrets]
        for algorithm, key in keys + [("EdDSA", key) for key in self._settings.public_keys]:
            try:
                # The key decides on the algorithm, never the header of the token.
                return jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=module,
                    leeway=self._settings.clock_leeway_seconds,
                    options={"require": _CLAIMS, "strict_aud": True},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
                reason = str(error)  # another key may fit
            except jwt.InvalidTokenError as error:
                raise CallRefused(str(error) or type(error).__name__) from None
        raise CallRefused(reason)


class UsedTokens:
    """The tokens that this process has accepted within the last `seconds` at least."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._now: set[str] = set()
        self._before: set[str] = set()

    def has(self, token_id: str) -> bool:
        """Return True if the token was used before."""
        return token_id in self._now or token_id in self._before

    def is_new(self, token_id: str) -> bool:
        """Record a token; return False if it was used before. Raises CallRefused if too many were recorded."""
        if (now := time.monotonic()) >= self._until:
            self._before = self._now if now < self._until + self._seconds else set()
            self._now, self._until = set(), now + self._seconds
        if self.has(token_id):
            return False
        if len(self._now) >= _MOST_REMEMBERED:
            raise CallRefused("too many calls: a repeated token could not be recognised")
        self._now.add(token_id)
        return True
