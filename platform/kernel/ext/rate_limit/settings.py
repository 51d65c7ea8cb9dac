"""The settings of rate limits and shares."""

from ipaddress import ip_network

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from kernel.settings.groups import Names, SettingsGroup


class RateLimitSettings(SettingsGroup):
    """Limits for each caller."""

    model_config = SettingsConfigDict(env_prefix="RATE_LIMIT_")

    # For each caller, over all routes: `600/minute`, `10/second; 5000/day`. Unset, only routes with `limited` have one.
    overall: str | None = None
    # Addresses and networks whose requests are not counted: `10.0.0.0/8,::1`.
    exempt: Names = ()
    # IPv6 addresses with the same first bits are one caller. Most providers give each customer a /56 (RIPE-690); some
    # give a /48, whose owners then count as 256 callers.
    ipv6_prefix_length: int = Field(56, ge=16, le=128)

    # The percentage of the requests and WebSockets that a process handles at a time (SERVER_MAX_CONCURRENT_REQUESTS,
    # SERVER_MAX_WEBSOCKETS) that one caller may hold, at least one; one more is answered 429. Of requests only those
    # with a body count.
    caller_share_percent: int = Field(25, ge=1, le=100)

    @field_validator("overall")
    @classmethod
    def _is_a_limit(cls, value: str | None) -> str | None:
        return None if value is None else check_limit(value)

    @field_validator("exempt")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                ip_network(name, strict=False)
            except ValueError:
                raise ValueError("must be addresses and networks: 10.0.0.0/8, 192.0.2.7") from None
        return value


def check_limit(limit: str) -> str:
    """Return a limit that can be parsed. Raises ValueError."""
    from limits import parse_many  # noqa: PLC0415  # imported only where a limit is set

    try:
        is_fit = all(item.amount > 0 for item in parse_many(limit))
    except ValueError:
        is_fit = False
    if not is_fit:
        raise ValueError("is not a limit: write 600/minute, 100/15minutes or 10/second; 5000/day")
    return limit
