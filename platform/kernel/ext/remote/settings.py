"""Settings of the calls between processes."""

import re
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from kernel.settings.groups import SettingsGroup
from kernel.settings.sources import Environment

_SHORTEST_SECRET = 32  # characters: HS256 wants a key as long as its hash (RFC 7518, section 3.2)
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


class InternalSettings(SettingsGroup):
    """Calls between processes, below /internal. Times are in seconds.

    The keys are either one shared secret, or Ed25519 keys: a private key signs, the public keys verify.
    """

    model_config = SettingsConfigDict(env_prefix="INTERNAL_")

    # Several separated by commas: the first one signs, all verify. The documentation describes a rotation.
    secret: SecretStr | None = None
    # In PEM; a line break may be written \n.
    private_key: SecretStr | None = None
    # The keys of all callers, one after another.
    public_keys: Annotated[tuple[str, ...], NoDecode] = ()
    # A token is valid until the deadline of its call, and at most this long.
    token_seconds: float = Field(60, gt=0)
    # The largest difference between the clocks of two machines.
    clock_leeway_seconds: float = Field(2, ge=0)
    # The largest body of a call; a larger one is answered with 413.
    max_body_bytes: int = Field(1 << 20, ge=0)
    # Seconds between two comparisons of the contracts with those of a module in another process.
    compare_seconds: float = Field(10, gt=0)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The shared secrets; the first one signs."""
        return _parts(self.secret)

    @property
    def can_sign(self) -> bool:
        """Return whether this process can sign calls."""
        return bool(self.secret or self.private_key)

    @property
    def is_off(self) -> bool:
        """Return whether calls are unsigned: in LOCAL, while no key is set."""
        has_keys = self.secret or self.private_key or self.public_keys
        return self.environment is Environment.LOCAL and not has_keys

    @field_validator("secret")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and min(map(len, _parts(value)), default=0) < _SHORTEST_SECRET:
            raise ValueError(f"must have at least {_SHORTEST_SECRET} characters: run `openssl rand -hex 32`")
        return value

    @field_validator("private_key", "public_keys", mode="before")
    @classmethod
    def _are_pem(cls, value: object, info: Any) -> object:
        if not isinstance(value, str):
            return value
        keys = tuple(found.group() for found in _PEM.finditer(value.replace("\\n", "\n")))
        is_private = info.field_name == "private_key"
        if not keys or any((" PRIVATE " in key) != is_private for key in keys) or not _are_ed25519(keys):
            raise ValueError("is no Ed25519 key in PEM. Create one with `openssl genpkey -algorithm ed25519`")
        return keys[0] if is_private else keys


def _parts(secret: SecretStr | None) -> tuple[str, ...]:
    return (
        () if secret is None else tuple(part.strip() for part in secret.get_secret_value().split(",") if part.strip())
    )


def _are_ed25519(keys: tuple[str, ...]) -> bool:
    from jwt.algorithms import OKPAlgorithm  # noqa: PLC0415  # slow to import, and needed only if keys are set
    from jwt.exceptions import InvalidKeyError  # noqa: PLC0415

    try:
        return all(OKPAlgorithm().prepare_key(key) for key in keys)
    except (InvalidKeyError, ValueError, TypeError):
        return False
