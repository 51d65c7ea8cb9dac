"""Who may ask below /internal: signed tokens (RFC 7519), each for one call and for as long as that may take.

PyJWT is imported by the first token: it brings `cryptography`, which would be a tenth of every start.
"""

import hashlib
import math
import os
import socket
import time
from typing import Any

from kernel.ext.remote.settings import InternalSettings

# In each of two spans of time. A caller who holds a key and asks faster than that is refused, not believed.
_MOST_REMEMBERED = 100_000
_CLAIMS = ["iss", "aud", "sub", "iat", "exp", "jti", "body"]


class Refused(Exception):
    """A call that is not signed as it must be; says why, for the log."""


class Tokens:
    """Signs what this process asks, and verifies what it is asked."""

    def __init__(self, settings: InternalSettings) -> None:
        self._settings = settings
        self._issuer = socket.gethostname()
        # From the first time that a token could come to the last: one that lives too long is refused below.
        self._longest = settings.token_seconds + settings.clock_leeway_seconds + 1  # exp is in whole seconds
        self._seen = Seen(self._longest + settings.clock_leeway_seconds)

    def sign(self, module: str, subject: str, body: bytes, deadline: float) -> str | None:
        """A token for one call, until its deadline (Unix time) at most; None while signing is off."""
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

        Raises Refused. The call may only be executed after `accept` has compared the body.
        """
        if self._settings.is_off:
            return None
        if not token:
            raise Refused("it is not signed")
        claims = self._claims(token, module)
        if claims["sub"] != subject:
            raise Refused(f"the token is for {claims['sub']}")
        if int(claims["exp"]) > time.time() + self._longest:
            raise Refused("the token lives longer than INTERNAL_TOKEN_SECONDS allows")
        if self._seen.has(str(claims["jti"])):
            raise Refused("the token came before")
        return claims

    def accept(self, claims: dict[str, Any] | None, body: bytes) -> None:
        """Use up the token of an authenticated call. Raises Refused unless it was signed for this body and is new."""
        if claims is None:
            return
        if claims["body"] != hashlib.sha256(body).hexdigest():
            raise Refused("the body is not the one that was signed")
        if not self._seen.is_new(str(claims["jti"])):
            raise Refused("the token came before")

    def _claims(self, token: str, module: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415

        reason = "nobody can be recognised here: give INTERNAL_SECRET or INTERNAL_PUBLIC_KEYS"
        keys = [("HS256", secret) for secret in self._settings.secrets]
        for algorithm, key in keys + [("EdDSA", key) for key in self._settings.public_keys]:
            try:
                # The algorithm is the key's, whatever the token says of itself.
                return jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=module,
                    leeway=self._settings.clock_leeway_seconds,
                    options={"require": _CLAIMS, "strict_aud": True},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
                reason = str(error)  # another key may be the one
            except jwt.InvalidTokenError as error:
                raise Refused(str(error) or type(error).__name__) from None
        raise Refused(reason)


class Seen:
    """Which tokens came within the last `seconds` at least, in this process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._now: set[str] = set()
        self._before: set[str] = set()

    def has(self, token_id: str) -> bool:
        """Whether it came already. Notes nothing."""
        return token_id in self._now or token_id in self._before

    def is_new(self, token_id: str) -> bool:
        """Whether it comes for the first time; notes that it came. Raises Refused where too many came."""
        if (now := time.monotonic()) >= self._until:
            self._before = self._now if now < self._until + self._seconds else set()
            self._now, self._until = set(), now + self._seconds
        if self.has(token_id):
            return False
        if len(self._now) >= _MOST_REMEMBERED:
            raise Refused("too many calls: tokens could come twice and not be recognised")
        self._now.add(token_id)
        return True
