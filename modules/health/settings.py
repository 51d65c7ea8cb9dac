"""The settings of health."""

from pydantic import Field

from kernel import ModuleSettings


class HealthSettings(ModuleSettings):
    """Settings of health, in seconds."""

    # For each check. The checks run concurrently, so readiness takes no longer than this.
    check_deadline_seconds: float = Field(1, gt=0)
    # Probes within this time share one result. This plus the deadline is the longest that a result lags behind.
    cache_seconds: float = Field(0.25, ge=0)
