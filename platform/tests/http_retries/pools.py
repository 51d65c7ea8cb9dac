"""Pools of outgoing connections with retries."""

from typing import Any

from kernel.ext.http_retries.settings import RetrySettings
from kernel.ext.http_retries.transport import Retries
from kernel.http_client.client import HttpxRestClientPool
from kernel.settings import HttpClientSettings


def retrying_pool(**changes: Any) -> HttpxRestClientPool:
    """Return a pool whose settings and whose retries have these values."""
    own = {name: changes.pop(name) for name in list(changes) if name in RetrySettings.model_fields}
    settings = HttpClientSettings(**changes)
    pool = HttpxRestClientPool(settings)
    pool.wrap_transport = Retries(RetrySettings(**own), settings.pool_timeout_seconds).around
    return pool


def circuits_of(pool: HttpxRestClientPool) -> Any:
    """Return the circuits of a retrying pool, by origin."""
    return pool.wrap_transport.__self__.circuits  # type: ignore[attr-defined]  # a bound method
