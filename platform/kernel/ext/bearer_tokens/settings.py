"""The settings of bearer tokens."""

from collections.abc import Mapping

from pydantic import Field, ValidationInfo, field_validator

from kernel.settings import AuthSettings, Environment
from kernel.settings.groups import Names

_PRODUCTION = {Environment.UAT, Environment.PROD}
_ALGORITHMS = {f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}


class BearerSettings(AuthSettings):
    """Bearer tokens of an OpenID provider (JWT, RFC 9068). Times are in seconds."""

    # The expected `iss` of a token, exactly, and its expected `aud`, which identifies this application.
    issuer: str | None = Field(None, validate_default=True)
    audience: str | None = Field(None, validate_default=True)
    # The URL of the issuer's public keys. If unset, it is read from the issuer's /.well-known/openid-configuration.
    jwks_url: str | None = None
    # How long the keys are used until they are fetched again. An unknown key is fetched at once.
    jwks_cache_seconds: float = Field(3600, gt=0)
    # The accepted algorithms. A token names its own algorithm, so it must not choose freely.
    algorithms: Names = ("RS256", "PS256", "ES256", "EdDSA")
    # The allowed difference between our clock and the issuer's.
    clock_leeway_seconds: float = Field(10, ge=0, le=300)
    # The claims with the scopes and the roles. A dot leads into a nested claim: realm_access.roles.
    scopes_claim: str = "scope"
    roles_claim: str = "roles"
    # The scopes of each role: {"editor": ["events:read", "events:write"]}.
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
            allowed = ", ".join(sorted(_ALGORITHMS))
            raise ValueError(f"must contain only {allowed}: other algorithms use a shared key or none")
        return value

    @field_validator("issuer", "audience")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        environment = info.data.get("environment")
        if not value and info.data.get("enabled") and environment is not Environment.LOCAL:
            way_out = " (in dev, AUTH_ENABLED=false turns authentication off)" if environment == "dev" else ""
            raise ValueError(f"is required in {environment} to verify tokens{way_out}")
        return value

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _comes_over_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and not value.startswith("https://") and info.data.get("environment") in _PRODUCTION:
            raise ValueError("must begin with https://: otherwise an attacker in the network could replace the keys")
        return value
