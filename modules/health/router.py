"""Health over HTTP: three probes for the orchestrator, details and incidents for people."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from kernel import TheKernel, Unavailable, module_state, problems, with_session
from kernel.database import Page
from kernel.observability.health import Finding
from kernel.settings import Environment
from kernel.web.problems import FieldProblem
from modules.health.repository import IncidentRepository
from modules.health.schemas import ComponentHealth, Health, IncidentOut, IncidentQuery, Status
from modules.health.service import HealthMonitor

router = APIRouter(prefix="/health")

Monitor = Annotated[HealthMonitor, Depends(module_state)]
Incidents = Annotated[IncidentRepository, with_session(IncidentRepository)]

_LOADED_AT = time.monotonic()


@router.get("/live")
async def live() -> Status:
    """Whether the process answers at all. Asks no dependency: restarting us would not mend one."""
    return Status(status="alive")


@router.get("/startup", responses=problems(503))
async def startup(kernel: TheKernel) -> Status:
    """Whether the start is over: databases verified, pools open."""
    if not kernel.is_started:
        raise Unavailable("Still starting.")
    return Status(status="started")


@router.get("/ready", responses=problems(503))
async def ready(kernel: TheKernel, monitor: Monitor) -> Status:
    """Whether requests can be served: every dependency answered in time."""
    failed = [finding for finding in await monitor.findings(kernel.health_checks()) if finding.problem is not None]
    if failed or not kernel.is_started:
        raise Unavailable("Not ready: see errors.", errors=[_problem_of(finding, kernel) for finding in failed])
    return Status(status="ready")


@router.get("")
async def health(kernel: TheKernel, monitor: Monitor) -> Health:
    """Everything at a glance. In production, without what would help an attacker."""
    findings = await monitor.findings(kernel.health_checks())
    shows = _shows_internals(kernel)
    return Health(
        status="unhealthy" if any(finding.problem for finding in findings) else "healthy",
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


@router.get("/incidents")
async def list_incidents(
    query: Annotated[IncidentQuery, Query()], incidents: Incidents, kernel: TheKernel
) -> Page[IncidentOut]:
    """List what failed in the past, the latest first."""
    page = await incidents.find(query)
    if not _shows_internals(kernel):
        page.items = [item.model_copy(update={"seen": "not well"}) for item in page.items]
    return page


def _shows_internals(kernel: TheKernel) -> bool:
    return kernel.settings.application.environment is not Environment.PROD


def _problem_of(finding: Finding, kernel: TheKernel) -> FieldProblem:
    message = finding.problem if finding.problem and _shows_internals(kernel) else "not well"
    return FieldProblem(field=finding.component, message=message, code="unhealthy")
