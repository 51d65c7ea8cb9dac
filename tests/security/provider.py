"""An OpenID provider for tests: rotating keys, outages on request, and any kind of token."""

import asyncio
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as new_rsa_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.core.https_server import Call, Drop, Hang, HttpServer, Reply

AUDIENCE = "events-api"
CONFIGURATION = "/.well-known/openid-configuration"
KEYS = "/keys"


class Provider:
    """An OpenID provider.

    `behaviour` is how it responds: answers, or hangs, drops the connection, or fails. Open `server`.
    """

    def __init__(self) -> None:
        self.behaviour: Hang | Drop | Reply | None = None
        self.delay_seconds = 0.0
        # The issuer that it claims to be; by default the server's address.
        self.issuer_told: str | None = None
        self.server = HttpServer(self._answer)
        self.keys: dict[str, Any] = {}
        self.rotate("first")

    @property
    def issuer(self) -> str:
        return self.server.url

    def rotate(self, *names: str) -> None:
        """Use these keys from now on, and no others."""
        self.keys = {
            name: self.keys.get(name)
            or (new_ec_key(SECP256R1()) if name.startswith("ec") else new_rsa_key(65537, 2048))
            for name in names
        }

    def asked(self, path: str = KEYS) -> int:
        """Return how many requests it has got."""
        return sum(call.path == path for call in self.server.calls)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a valid token with changes; None omits a claim."""
        now = int(time.time())
        good = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300}
        claims = good | {"scope": "events:read events:write"} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str | None = "first", headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return a token that this provider signs with this key (with its first key if it has none of the name)."""
        key = self.keys.get(kid or "") or next(iter(self.keys.values()))
        algorithm = "RS256" if isinstance(key, RSAPrivateKey) else "ES256"
        named = {} if kid is None else {"kid": kid}
        return jwt.encode(self.claims(**changes), key, algorithm, headers=named | (headers or {}))

    async def _answer(self, call: Call) -> Reply | Drop | Hang:
        await asyncio.sleep(self.delay_seconds)
        if self.behaviour is not None:
            return self.behaviour
        if call.path == CONFIGURATION:
            told = {"issuer": self.issuer_told or self.issuer, "jwks_uri": f"{self.issuer}{KEYS}"}
            return Reply(body=json.dumps(told).encode())
        return Reply(body=json.dumps({"keys": [_public(name, key) for name, key in self.keys.items()]}).encode())


def _public(name: str, key: Any) -> dict[str, Any]:
    algorithm: Any = RSAAlgorithm if isinstance(key, RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": name, "use": "sig"}
