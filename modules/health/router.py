"""The HTTP routes of health: three probes for the orchestrator, details and incidents for people."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from kernel import TheKernel, Unavailable, from_module, problems, public, requires, with_session
from kernel.ext.paging import Page
from kernel.health import Finding
from kernel.settings import Environment
from kernel.web.problems import FieldProblem
from modules.health.repository import IncidentRepository
from modules.health.schemas import ComponentHealth, Health, IncidentOut, IncidentQuery, Readiness, Status
from modules.health.service import HealthMonitor

router = APIRouter(prefix="/health")

Monitor = Annotated[HealthMonitor, from_module(HealthMonitor)]
Incidents = Annotated[IncidentRepository, with_session(IncidentRepository)]

_LOADED_AT = time.monotonic()


@router.get("/live", dependencies=[public])
async def live() -> Status:
    """Report that the process answers. Checks no dependency, because a restart would not repair one."""
    return Status(status="alive")


@router.get("/startup", dependencies=[public], responses=problems(503))
async def startup(kernel: TheKernel) -> Status:
    """Report whether the application has started: databases verified, pools open."""
    if not kernel.is_started:
        raise Unavailable("The application is still starting.")
    return Status(status="started")


@router.get("/ready", dependencies=[public], response_model_exclude_none=True, responses=problems(503))
async def ready(kernel: TheKernel, monitor: Monitor) -> Readiness:
    """Report whether the application can serve requests: each required dependency answers in time."""
    if kernel.is_stopping:
        raise Unavailable("The application is stopping. Send requests to another process.")
    findings = await monitor.findings(kernel.health_checks())
    failed = [finding for finding in findings if finding.problem is not None and not finding.is_degraded]
    if failed or not kernel.is_started:
        raise Unavailable("Not ready: see errors.", errors=[_problem_of(finding, kernel) for finding in failed])
    return Readiness(
        status="ready", degraded=[finding.component for finding in findings if finding.is_degraded] or None
    )


@router.get("", dependencies=[public])
async def health(kernel: TheKernel, monitor: Monitor) -> Health:
    """Report the health of every component. Internals, such as error texts, are left out in production."""
    findings = await monitor.findings(kernel.health_checks())
    shows = _shows_internals(kernel)
    return Health(
        status=_worst(findings),
        version=kernel.settings.application.version if shows else None,
        environment=kernel.settings.application.environment if shows else None,
        uptime_seconds=round(time.monotonic() - _LOADED_AT, 1) if shows else None,
        modules=[module.name for module in kernel.modules] if shows else None,
        components=[
            ComponentHealth(
                component=finding.component,
                healthy=finding.problem is None,
                problem=finding.problem if shows else None,
                duration_ms=finding.duration_ms,
            )
            for finding in findings
        ],
    )


@router.get("/incidents", dependencies=[requires("health:read")])
async def list_incidents(
    query: Annotated[IncidentQuery, Query()], incidents: Incidents, kernel: TheKernel
) -> Page[IncidentOut]:
    """List past incidents, newest first."""
    page = await incidents.find(query)
    if not _shows_internals(kernel):
        page.items = [item.model_copy(update={"seen": "unhealthy"}) for item in page.items]
    return page


def _worst(findings: list[Finding]) -> Literal["healthy", "degraded", "unhealthy"]:
    if any(finding.problem is not None and not finding.is_degraded for finding in findings):
        return "unhealthy"
    return "degraded" if any(finding.is_degraded for finding in findings) else "healthy"


def _shows_internals(kernel: TheKernel) -> bool:
    return kernel.settings.application.environment is not Environment.PROD


def _problem_of(finding: Finding, kernel: TheKernel) -> FieldProblem:
    message = finding.problem if finding.problem and _shows_internals(kernel) else "unhealthy"
    return FieldProblem(field=finding.component, message=message, code="unhealthy")
