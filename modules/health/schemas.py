"""What goes over the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from kernel.database import PageRequest
from kernel.fields import NoNul


class Status(BaseModel):
    """An answer to a probe that is well; one that is not gets problem details."""

    status: Literal["alive", "started", "ready"]


class Readiness(Status):
    """An answer to the probe that decides whether we get requests."""

    degraded: list[str] | None = Field(None, description="What is not well, and yet no reason to send nobody.")


class ComponentHealth(BaseModel):
    """One component as its last check saw it."""

    component: str
    healthy: bool
    problem: str | None = Field(description="What the check said; withheld in production.")
    duration_ms: float


class Health(BaseModel):
    """Everything at a glance."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str | None = Field(description="Withheld in production, as is what follows.")
    environment: str | None
    uptime_seconds: float | None
    modules: list[str] | None
    components: list[ComponentHealth]


class IncidentOut(BaseModel):
    """A time during which a component was not well."""

    id: int
    component: str
    started_at: datetime
    ended_at: datetime
    seen: str
    seen_by: str


class IncidentQuery(PageRequest):
    """Which incidents are wanted; the latest come first."""

    component: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), NoNul] | None = None
