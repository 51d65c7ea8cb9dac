"""The extension `rate_limit`."""

from kernel.ext.rate_limit.middleware import CallerShares, GlobalRateLimit
from kernel.ext.rate_limit.rate_limiter import RateLimiter
from kernel.ext.rate_limit.settings import RateLimitSettings
from kernel.ext.store.store import SharedStore
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel
from kernel.serving import Capacity
from kernel.web.dispatch import PROBES


class RateLimit(Extension):
    """Limits each caller: on single routes, over all routes, and in what it may hold at a time."""

    name = "rate_limit"
    requires = ("store",)
    packages = ("limits",)
    settings = (RateLimitSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        app.provide(RateLimiter(app.settings.group(RateLimitSettings), app.get(SharedStore)))

    def assemble(self, kernel: Kernel) -> None:
        settings, limiter = kernel.settings.group(RateLimitSettings), kernel.get(RateLimiter)
        layers = kernel.builder.middleware
        if limit := settings.overall:
            layers.append(lambda app: GlobalRateLimit(app, limiter, limit, PROBES, _mounts(kernel)))
        if (capacity := kernel.find(Capacity)) is None:
            return  # the server has no limit of which a caller could hold a share
        requests, websockets = (
            max(1, most * settings.caller_share_percent // 100) for most in (capacity.requests, capacity.websockets)
        )
        layers.append(lambda app: CallerShares(app, limiter, requests, websockets, _mounts(kernel)))


def _mounts(kernel: Kernel) -> tuple[str, ...]:
    """Return the path prefixes of mounted applications, which authorise their callers themselves."""
    return tuple(f"{prefix}/" for prefix in kernel.builder.mounts)
