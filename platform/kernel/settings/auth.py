"""Bearer tokens: whose are believed, and what they allow."""

from collections.abc import Mapping

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import Names, SettingsGroup
from kernel.settings.sources import Environment

_PRODUCTION = {Environment.UAT, Environment.PROD}
_ALGORITHMS = {f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}


class AuthSettings(SettingsGroup):
    """Bearer tokens of an OpenID provider (JWT, RFC 9068). Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="AUTH_")

    # Where off, who sends no token is a developer who may do everything. A token that is sent is always checked.
    enabled: bool = Field(default_factory=lambda data: data.get("environment") is not Environment.LOCAL)
    # The token's `iss`, to the letter, and what its `aud` must name: us.
    issuer: str | None = Field(None, validate_default=True)
    audience: str | None = Field(None, validate_default=True)
    # The provider's public keys; unset, its /.well-known/openid-configuration says where they are.
    jwks_url: str | None = None
    # How long they are used without a look whether there are others. A key that we do not know is looked for at once.
    jwks_cache_seconds: float = Field(3600, gt=0)
    # A token says itself how it is signed; it is believed only among these.
    algorithms: Names = ("RS256", "PS256", "ES256", "EdDSA")
    # By how much our clock and the provider's may differ.
    clock_leeway_seconds: float = Field(10, ge=0, le=300)
    # Where the token says what its bearer may do; a dot leads deeper: realm_access.roles.
    scopes_claim: str = "scope"
    roles_claim: str = "roles"
    # What each role may: {"editor": ["events:read", "events:write"]}.
    roles: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("roles", mode="before")
    @classmethod
    def _are_lists(cls, value: object) -> object:
        given = value if isinstance(value, Mapping) else {}
        if wrong := [role for role, scopes in given.items() if not isinstance(scopes, list | tuple)]:
            raise ValueError(f'must give {wrong[0]} a list of scopes: {{"{wrong[0]}": ["events:read"]}}')
        return value

    @field_validator("algorithms")
    @classmethod
    def _are_asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= _ALGORITHMS:
            raise ValueError(f"may only name {', '.join(sorted(_ALGORITHMS))}: others share their key or have none")
        return value

    @field_validator("enabled")
    @classmethod
    def _is_on_in_production(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("environment") in _PRODUCTION:
            raise ValueError(f"may not be off in {info.data['environment']}: everybody could do everything")
        return value

    @field_validator("issuer", "audience")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        environment = info.data.get("environment")
        if not value and info.data.get("enabled") and environment is not Environment.LOCAL:
            way_out = " (in dev, AUTH_ENABLED=false lets everybody do everything)" if environment == "dev" else ""
            raise ValueError(f"is required in {environment}, to know whose tokens hold, and for whom{way_out}")
        return value

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _comes_over_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and not value.startswith("https://") and info.data.get("environment") in _PRODUCTION:
            raise ValueError("must begin with https://: who stands between could sign for everybody")
        return value
