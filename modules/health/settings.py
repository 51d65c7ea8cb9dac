"""How patiently health is asked."""

from pydantic import Field

from kernel import ModuleSettings


class HealthSettings(ModuleSettings):
    """Settings of health, in seconds."""

    # Each check's own; they run together, so that readiness takes no longer than this.
    check_deadline_seconds: float = Field(1, gt=0)
    # Many probes within this time ask the dependencies once.
    cache_seconds: float = Field(1, ge=0)
