"""The extension `rate_limit`."""

from kernel.ext.rate_limit.rate_limit import CallerShares, Limits, Overall
from kernel.ext.rate_limit.settings import RateLimitSettings
from kernel.ext.store.store import SharedStore
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel
from kernel.serving import Capacity
from kernel.web.dispatch import PROBES


class RateLimit(Extension):
    """Limits for each caller: on single routes, over all routes, and of what one caller may hold at a time."""

    name = "rate_limit"
    requires = ("store",)
    packages = ("limits",)
    settings = (RateLimitSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        self._limits = Limits(app.settings.group(RateLimitSettings), app.get(SharedStore))
        app.provide(self._limits)

    def assemble(self, kernel: Kernel) -> None:
        if limit := kernel.settings.group(RateLimitSettings).overall:
            kernel.builder.middleware.append(
                lambda app: Overall(app, self._limits, limit, PROBES, _below_mounts(kernel))
            )
        if (capacity := kernel.find(Capacity)) is None:
            return  # the server sets no limit of which a caller could hold a share
        percent = kernel.settings.group(RateLimitSettings).caller_share_percent
        requests, websockets = (max(1, most * percent // 100) for most in (capacity.requests, capacity.websockets))
        kernel.builder.middleware.append(
            lambda app: CallerShares(app, self._limits, requests, websockets, _below_mounts(kernel))
        )


def _below_mounts(kernel: Kernel) -> tuple[str, ...]:
    """Return what the paths of mounted applications begin with. These authorise their callers themselves."""
    return tuple(f"{prefix}/" for prefix in kernel.builder.mounts)
