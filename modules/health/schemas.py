"""Request and response bodies of health."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from kernel.ext.fields import NoNul
from kernel.ext.paging import PageRequest


class Status(BaseModel):
    """The answer of a probe that succeeds. A failed probe answers with problem details."""

    status: Literal["alive", "started", "ready"]


class Readiness(Status):
    """The answer of the readiness probe."""

    degraded: list[str] | None = Field(None, description="Unhealthy components that do not affect readiness.")


class ComponentHealth(BaseModel):
    """The result of a component's last check."""

    component: str
    healthy: bool
    problem: str | None = Field(description="The problem that the check reported; null in production.")
    duration_ms: float


class Health(BaseModel):
    """The health of the application and of its components."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str | None = Field(description="Null in production, like environment, uptime_seconds and modules.")
    environment: str | None
    uptime_seconds: float | None
    modules: list[str] | None
    components: list[ComponentHealth]


class IncidentOut(BaseModel):
    """A period in which a component was unhealthy."""

    id: int
    component: str
    started_at: datetime
    ended_at: datetime
    seen: str
    seen_by: str


class IncidentQuery(PageRequest):
    """Filter and page of a list of incidents, newest first."""

    component: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), NoNul] | None = None
