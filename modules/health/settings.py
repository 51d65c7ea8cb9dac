"""How patiently health is asked."""

from pydantic import Field

from kernel import ModuleSettings


class HealthSettings(ModuleSettings):
    """Settings of health, in seconds."""

    # Each check's own; they run together, so that readiness takes no longer than this.
    check_deadline_seconds: float = Field(1, gt=0)
    # Many probes within this time ask the dependencies once. With the deadline it is how late readiness can be.
    cache_seconds: float = Field(0.25, ge=0)
