"""Run the health checks and record incidents."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from contextvars import Context
from datetime import datetime
from typing import Any

import structlog

from kernel.database import Database, utc_now
from kernel.health import Check, Finding, run_checks
from modules.health.repository import IncidentRepository
from modules.health.settings import HealthSettings

_log = structlog.get_logger("modules.health")
# Incidents kept in memory while the database cannot store them; the oldest are dropped first.
_MAX_UNWRITTEN = 1000


class HealthMonitor:
    """Runs the checks, keeps their last results, and records an incident when a component recovers."""

    def __init__(self, database: Database, settings: HealthSettings) -> None:
        self._database = database
        self._settings = settings
        self._lock = asyncio.Lock()
        self._findings: list[Finding] = []
        self._checked_at = float("-inf")
        self._failing: dict[str, tuple[datetime, str]] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._writing: asyncio.Task[None] | None = None
        self._seen_by = f"{socket.gethostname()}:{os.getpid()}"

    async def findings(self, checks: Mapping[str, Check]) -> list[Finding]:
        """Return each component's finding, from checks that ran at most `cache_seconds` ago."""
        async with self._lock:
            if time.monotonic() - self._checked_at > self._settings.cache_seconds:
                self._findings = await run_checks(checks, self._settings.check_deadline_seconds)
                self._checked_at = time.monotonic()
                for finding in self._findings:
                    self._follow(finding)
                if self._unwritten and (self._writing is None or self._writing.done()):
                    # In a task of its own: a database that fails again must not delay the answer.
                    self._writing = asyncio.get_running_loop().create_task(self._write_incidents(), context=Context())
            return self._findings

    async def written(self) -> None:
        """Wait until the current write ends, which takes at most `check_deadline_seconds`."""
        if self._writing is not None:
            await self._writing

    def _follow(self, finding: Finding) -> None:
        """Note when a component fails, and queue an incident when it recovers."""
        if finding.problem is not None:
            if finding.component not in self._failing:
                _log.error("component failed", component=finding.component, problem=finding.problem)
            self._failing.setdefault(finding.component, (utc_now(), finding.problem))
        elif finding.component in self._failing:
            started_at, seen = self._failing.pop(finding.component)
            _log.info("component recovered", component=finding.component)
            incident = {"component": finding.component, "started_at": started_at, "ended_at": utc_now(), "seen": seen}
            self._unwritten = [*self._unwritten, incident | {"seen_by": self._seen_by}][-_MAX_UNWRITTEN:]

    async def _write_incidents(self) -> None:
        """Write the queued incidents. After a failure they stay queued for the next round."""
        waiting, self._unwritten = self._unwritten, []
        try:
            async with (
                asyncio.timeout(self._settings.check_deadline_seconds),
                self._database.transaction() as session,
            ):
                await IncidentRepository(session).create_many(waiting)
        except Exception as error:  # noqa: BLE001  # after any failure, the next round tries again
            self._unwritten = [*waiting, *self._unwritten][-_MAX_UNWRITTEN:]
            _log.warning("incidents not written", reason=repr(error), waiting=len(self._unwritten))
