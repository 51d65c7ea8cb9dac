"""The extension `audit_log`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

from starlette.types import Scope

from audit_log.settings import AuditSettings
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel
from kernel.web.context import find_context

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class AuditFile:
    """Observes requests and writes a line for each that may change data."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def started(self, scope: Scope) -> None:
        """Do nothing, because the caller and the status are known at the end."""

    def ended(self, scope: Scope, status: int, seconds: float) -> None:
        """Write the line of this request."""
        context = find_context(scope)
        if scope["type"] != "http" or scope["method"] in _SAFE_METHODS or context is None or self._file is None:
            return
        caller = None if context.principal is None else context.principal.subject
        line = {"method": scope["method"], "path": scope["path"], "caller": caller, "status": status}
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the file open for new lines."""
        with self._path.open("a", encoding="utf-8") as self._file:
            yield
        self._file = None

    async def check(self) -> None:
        """Raise FileNotFoundError if the file has been removed: further lines would be lost."""
        self._path.stat()


class AuditLog(Extension):
    """Records each request that may change data."""

    name = "audit_log"
    settings = (AuditSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        file = AuditFile(app.settings.root / app.settings.group(AuditSettings).file)
        app.provide(file)
        app.observers.append(file)
        app.health_checks["audit_log"] = file.check

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        async with kernel.get(AuditFile).opened():
            yield
