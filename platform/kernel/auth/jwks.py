"""The public keys of the provider whose tokens hold."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog

from kernel.http_client.client import HttpxRestClientPool
from kernel.settings import AuthSettings, without_credentials
from kernel.web.problems import Unavailable

if TYPE_CHECKING:
    from jwt import PyJWK

_log = structlog.get_logger("kernel.security")

# The provider is asked again no sooner than this, however many tokens name a key that it does not have.
_ASK_AGAIN_SECONDS = 5.0
_ASK_AGAIN_WITHOUT_KEYS_SECONDS = 1.0
# For one question, with all its tries.
_PATIENCE_SECONDS = 3.0


class Keys:
    """Fetched with the first token, and again when they are old or do not have the one that a token names.

    While the provider does not answer, those that we have go on.
    """

    def __init__(self, settings: AuthSettings, http: HttpxRestClientPool) -> None:
        self._settings = settings
        self._http = http
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._asked_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, name: str) -> "PyJWK | None":
        """The key of this name (`kid`); for an empty one the only key, if there is only one.

        Raises Unavailable while there are none and the provider does not answer.
        """
        key = self._get(name)
        is_old = time.monotonic() - self._fetched_at > self._settings.jwks_cache_seconds
        if key is not None and is_old and self._may_ask() and self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())  # nobody waits for what is only a precaution
            self._fetching.add_done_callback(self._end_fetching)
        elif key is None and self._may_ask():
            await self._fetch()
            key = self._get(name)
        if not self._keys:
            raise Unavailable("Tokens cannot be checked at the moment: their issuer does not answer.")
        return key

    def _get(self, name: str) -> "PyJWK | None":
        if not name and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name)

    def _may_ask(self) -> bool:
        pause = _ASK_AGAIN_SECONDS if self._keys else _ASK_AGAIN_WITHOUT_KEYS_SECONDS
        return time.monotonic() - self._asked_at > pause

    def _end_fetching(self, _task: object) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        """Ask the provider. A failure is logged, and leaves what we have."""
        async with self._one_at_a_time:
            if not self._may_ask():  # somebody else did, while we waited
                return
            try:
                self._keys = _usable(await self._get_json(await self._address()))
                self._fetched_at = time.monotonic()
            except Exception as error:  # noqa: BLE001  # whatever the network or the provider says
                asked = self._settings.jwks_url or f"{self._settings.issuer} (AUTH_ISSUER)"
                _log.error(
                    "the issuer's keys cannot be fetched",
                    of=without_credentials(asked),
                    reason=repr(error),
                    known=len(self._keys),
                )
            self._asked_at = time.monotonic()

    async def _address(self) -> str:
        if self._settings.jwks_url is not None:
            return self._settings.jwks_url
        issuer = self._settings.issuer or ""
        said = await self._get_json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != issuer:  # OpenID Connect Discovery 1.0, section 4.3
            raise ValueError(f"its configuration is of another issuer than AUTH_ISSUER: {said.get('issuer')!r}")
        url = str(said["jwks_uri"])
        if issuer.startswith("https://") and not url.startswith("https://"):
            raise ValueError(f"its keys are not at https://: {url!r}")
        return url

    async def _get_json(self, url: str) -> Any:
        client = self._http.get_client()
        response = await client.get(url, extensions={"total_timeout": _PATIENCE_SECONDS})
        return response.raise_for_status().json()


def _usable(document: Any) -> "dict[str, PyJWK]":
    """Public keys for signatures, by name. Raises an exception where there are none."""
    import jwt  # noqa: PLC0415

    found = {}
    for one in document["keys"]:
        if isinstance(one, dict) and one.get("kty") in {"RSA", "EC", "OKP"} and one.get("use", "sig") == "sig":
            try:
                found[str(one.get("kid", ""))] = jwt.PyJWK.from_dict(one)
            except jwt.PyJWTError:
                continue  # of a kind that we do not know: others may be fine
    if not found:
        raise ValueError("it names no key that can be used")
    return found
