"""The public keys of the token issuer."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog

from kernel.ext.bearer_tokens.settings import BearerSettings
from kernel.http_client import HttpxRestClientPool
from kernel.settings import without_credentials
from kernel.web.problems import Unavailable

if TYPE_CHECKING:
    from jwt import PyJWK

_log = structlog.get_logger("kernel.security")

# The shortest time between two requests to the issuer, however many tokens name an unknown key.
_FETCH_INTERVAL_SECONDS = 5.0
_FETCH_INTERVAL_WITHOUT_KEYS_SECONDS = 1.0
# For one request including its retries.
_FETCH_TIMEOUT_SECONDS = 3.0


class Keys:
    """Fetches the keys at the first token, and again when they are old or a token names an unknown key.

    While the issuer does not answer, the keys that were fetched before remain valid.
    """

    def __init__(self, settings: BearerSettings, http: HttpxRestClientPool) -> None:
        self._settings = settings
        self._http = http
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, name: str) -> "PyJWK | None":
        """Return the key with this `kid`; for an empty one the only key, if there is exactly one.

        Raises Unavailable if there are no keys and the issuer does not answer.
        """
        key = self._get(name)
        is_old = time.monotonic() - self._fetched_at > self._settings.jwks_cache_seconds
        if key is not None and is_old and self._may_fetch() and self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())  # in the background: the key at hand is still valid
            self._fetching.add_done_callback(self._end_fetching)
        elif key is None and self._may_fetch():
            await self._fetch()
            key = self._get(name)
        if not self._keys:
            raise Unavailable(
                "Tokens cannot be verified at the moment: their issuer does not answer. Try again shortly."
            )
        return key

    def _get(self, name: str) -> "PyJWK | None":
        if not name and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name)

    def _may_fetch(self) -> bool:
        interval = _FETCH_INTERVAL_SECONDS if self._keys else _FETCH_INTERVAL_WITHOUT_KEYS_SECONDS
        return time.monotonic() - self._tried_at > interval

    def _end_fetching(self, _task: object) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        """Fetch the keys. A failure is logged, and the known keys are kept."""
        async with self._lock:
            if not self._may_fetch():  # another task has just fetched them
                return
            try:
                self._keys = _usable(await self._get_json(await self._address()))
                self._fetched_at = time.monotonic()
            except Exception as error:  # noqa: BLE001  # any error of the network or the issuer
                source = self._settings.jwks_url or f"{self._settings.issuer} (AUTH_ISSUER)"
                _log.error(
                    "issuer's keys not fetched",
                    source=without_credentials(source),
                    reason=repr(error),
                    known_keys=len(self._keys),
                )
            self._tried_at = time.monotonic()

    async def _address(self) -> str:
        if self._settings.jwks_url is not None:
            return self._settings.jwks_url
        issuer = self._settings.issuer or ""
        document = await self._get_json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != issuer:  # OpenID Connect Discovery 1.0, section 4.3
            raise ValueError(f"its configuration names another issuer than AUTH_ISSUER: {document.get('issuer')!r}")
        url = str(document["jwks_uri"])
        if issuer.startswith("https://") and not url.startswith("https://"):
            raise ValueError(f"its keys are not at https://: {url!r}")
        return url

    async def _get_json(self, url: str) -> Any:
        client = self._http.get_client()
        response = await client.get(url, extensions={"total_timeout": _FETCH_TIMEOUT_SECONDS})
        return response.raise_for_status().json()


def _usable(document: Any) -> "dict[str, PyJWK]":
    """Return the public keys for signatures by `kid`. Raises if there are none."""
    import jwt  # noqa: PLC0415

    found = {}
    for one in document["keys"]:
        if isinstance(one, dict) and one.get("kty") in {"RSA", "EC", "OKP"} and one.get("use", "sig") == "sig":
            try:
                found[str(one.get("kid", ""))] = jwt.PyJWK.from_dict(one)
            except jwt.PyJWTError:
                continue  # an unsupported kind of key
    if not found:
        raise ValueError("its document contains no usable key")
    return found
