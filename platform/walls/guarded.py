"""That every route says who may ask it. Unlike the other checks it imports the project, to see what they depend on."""

from collections.abc import Iterator
from pathlib import Path

from walls.findings import COULD_NOT_CHECK, Finding

RULE = "guarded"


def check(root: Path) -> Iterator[Finding]:
    """For each route without a policy a finding, at its handler."""
    from kernel.discovery import DiscoveryError, discover  # noqa: PLC0415  # the others do without a web framework
    from kernel.security.policy import NO_POLICY, unguarded  # noqa: PLC0415

    try:
        modules = discover(root)
    except DiscoveryError as error:
        yield Finding("modules", 0, COULD_NOT_CHECK, f"The modules cannot be imported: {error}", "Mend that first.")
        return
    for module in modules:
        for found in unguarded(module.router) if module.router is not None else ():
            file = Path(found.file or "").resolve()
            path = file.relative_to(root) if file.is_relative_to(root) else Path("modules", module.name, "router.py")
            says, _, instead = NO_POLICY.partition(" Give")
            yield Finding(path.as_posix(), found.line, RULE, f"{found.route} {says}", f"Give{instead}")
