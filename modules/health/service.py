"""Asks the components how they are, and remembers when one was not well."""

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
# While the database is down its own incident cannot be written: so many wait until it can.
_MOST_WAITING = 1000


class HealthMonitor:
    """The last findings, what is failing now, and the incidents that are still to be written."""

    def __init__(self, database: Database, settings: HealthSettings) -> None:
        self._database = database
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()
        self._findings: list[Finding] = []
        self._asked_at = float("-inf")
        self._failing: dict[str, tuple[datetime, str]] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._writing: asyncio.Task[None] | None = None
        self._seen_by = f"{socket.gethostname()}:{os.getpid()}"

    async def findings(self, checks: Mapping[str, Check]) -> list[Finding]:
        """How each component is, from checks that ran at most `cache_seconds` ago."""
        async with self._one_at_a_time:
            if time.monotonic() - self._asked_at > self._settings.cache_seconds:
                self._findings = await run_checks(checks, self._settings.check_deadline_seconds)
                self._asked_at = time.monotonic()
                for finding in self._findings:
                    self._follow(finding)
                if self._unwritten and (self._writing is None or self._writing.done()):
                    # Aside: a database that fails again must not hold up the answer that says so.
                    self._writing = asyncio.get_running_loop().create_task(self._write_incidents(), context=Context())
            return self._findings

    async def written(self) -> None:
        """Wait for what is being written; that takes no longer than a check may."""
        if self._writing is not None:
            await self._writing

    def _follow(self, finding: Finding) -> None:
        """Note when a component fails, and make an incident of it when it recovers."""
        if finding.problem is not None:
            if finding.component not in self._failing:
                _log.error("component failed", component=finding.component, problem=finding.problem)
            self._failing.setdefault(finding.component, (utc_now(), finding.problem))
        elif finding.component in self._failing:
            started_at, seen = self._failing.pop(finding.component)
            _log.info("component recovered", component=finding.component)
            incident = {"component": finding.component, "started_at": started_at, "ended_at": utc_now(), "seen": seen}
            self._unwritten = [*self._unwritten, incident | {"seen_by": self._seen_by}][-_MOST_WAITING:]

    async def _write_incidents(self) -> None:
        """Write what waits. A failure leaves it waiting: to record an outage is no reason for another."""
        waiting, self._unwritten = self._unwritten, []
        try:
            async with (
                asyncio.timeout(self._settings.check_deadline_seconds),
                self._database.transaction() as session,
            ):
                await IncidentRepository(session).create_many(waiting)
        except Exception as error:  # noqa: BLE001  # whatever the reason, the next round tries again
            self._unwritten = [*waiting, *self._unwritten][-_MOST_WAITING:]
            _log.warning("incidents could not be written yet", reason=repr(error), waiting=len(self._unwritten))
