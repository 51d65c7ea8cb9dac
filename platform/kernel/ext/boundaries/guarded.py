"""The rule guarded: every route has a policy. The routers are imported, because nested routers add dependencies."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.imported import import_file
from kernel.ext.boundaries.project import Project

RULE = "guarded"


def collect(root: Path) -> dict[str, Any]:
    """Import the router of every module and describe the routes without a policy. Runs in the import process."""
    from kernel.auth.policy import NO_POLICY, unguarded  # noqa: PLC0415  # only the import process needs a web framework

    found, problems = [], []
    for folder in sorted(path for path in (root / "modules").iterdir() if (path / "__init__.py").is_file()):
        file = next((one for one in (folder / "router.py", folder / "router/__init__.py") if one.is_file()), None)
        if file is None:
            continue
        path, dotted = file.relative_to(root).as_posix(), f"modules.{folder.name}.router"
        if reason := import_file(root, dotted):
            problems.append((path, reason))
            continue
        router = getattr(sys.modules[dotted], "router", None)
        for one in unguarded(router) if router is not None else ():
            handler = Path(one.file or "").resolve()
            at = handler.relative_to(root).as_posix() if handler.is_relative_to(root) else path
            found.append((at, one.line, one.route))
    return {"found": found, "problems": problems, "why": NO_POLICY}


def check(project: Project) -> Iterator[Finding]:
    """Return a finding for each route without a policy, at its handler."""
    routes = project.facts.get("routes", {})
    for path, reason in routes.get("problems", ()):
        why = f"This cannot be imported ({reason}), so its routes were not checked."
        yield Finding(path, 0, COULD_NOT_CHECK, why, "Correct the import first.")
    says, _, instead = routes.get("why", "").partition(" Give")
    for path, line, route in routes.get("found", ()):
        yield Finding(path, line, RULE, f"{route} {says}", f"Give{instead}")
