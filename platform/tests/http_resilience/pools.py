"""Pools of outgoing connections with retries."""

from typing import Any

from kernel.ext.http_resilience.extension import install
from kernel.ext.http_resilience.settings import ResilienceSettings
from kernel.ext.http_resilience.transport import Retries
from kernel.http_client import HttpxRestClientPool
from kernel.settings import HttpClientSettings


def retrying_pool(**changes: Any) -> HttpxRestClientPool:
    """Return a pool whose settings and whose retries have these values."""
    own = {name: changes.pop(name) for name in list(changes) if name in ResilienceSettings.model_fields}
    settings, resilience = HttpClientSettings(**changes), ResilienceSettings(**own)
    pool = HttpxRestClientPool(settings)
    install(pool, Retries(resilience, settings.pool_timeout_seconds), resilience.max_answer_bytes)
    return pool


def circuits_of(pool: HttpxRestClientPool) -> Any:
    """Return the circuits of a retrying pool, by origin."""
    return pool.transports[-2].__self__.circuits  # type: ignore[attr-defined]  # a bound method
