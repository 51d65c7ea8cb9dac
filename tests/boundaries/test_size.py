"""The kernel stays small enough to be read: an evening for what every request meets, and two for what else there is."""

from pathlib import Path

_LIMITS = {"the way of a request": 6700, "between processes": 4000, "in production": 4700}
# Messages, brokers and contracts over HTTP. An application in one process may leave them for another day.
_BETWEEN_PROCESSES = (
    "messaging/",
    "remote/",
    "cli_messages.py",
    "settings/messaging.py",
    "settings/internal.py",
    "database/listening.py",
)
# Who may do what, what is measured, how a process starts and stops, and what is done to databases between versions.
_IN_PRODUCTION = (
    "security/",
    "observability/",
    "server/",
    "settings/security.py",
    "settings/server.py",
    "settings/telemetry.py",
    "circuits.py",
    "patience.py",
    "cli.py",
    "database/alembic_environment/",
    "database/migrations.py",
    "database/pulse.py",
    "database/revisions.py",
    "database/roles.py",
    "database/server_session.py",
    "revision_files.py",
    "web/replay.py",
)


def test_each_part_of_the_kernel_can_be_read_in_an_evening(root: Path) -> None:
    """All that an application runs, without blank lines; `kernel.testing` is for tests."""
    kernel = root / "platform" / "kernel"
    found = dict.fromkeys(_LIMITS, 0)
    for path in kernel.rglob("*.py"):
        if "testing" not in path.parts:
            found[_part(path.relative_to(kernel).as_posix())] += sum(
                bool(x.strip()) for x in path.read_text().splitlines()
            )
    assert {part: lines for part, lines in found.items() if lines >= _LIMITS[part]} == {}


def _part(path: str) -> str:
    if path.startswith(_BETWEEN_PROCESSES):
        return "between processes"
    return "in production" if path.startswith(_IN_PRODUCTION) else "the way of a request"
