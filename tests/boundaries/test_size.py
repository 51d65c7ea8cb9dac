"""The kernel stays small enough to be read in an evening, and what goes between processes in a second one."""

from pathlib import Path

_EVENING = 5000
# Messages, brokers and contracts over HTTP. An application in one process may leave them for another day.
_SECOND_EVENING = 3000
_BETWEEN_PROCESSES = (
    "messaging/",
    "remote/",
    "cli_messages.py",
    "settings/messaging.py",
    "settings/internal.py",
    "database/listening.py",
)


def test_the_kernel_can_be_read_in_an_evening(root: Path) -> None:
    """All that an application runs, without blank lines; `kernel.testing` is for tests."""
    assert _lines(root, between_processes=False) < _EVENING


def test_what_goes_between_processes_can_be_read_in_another(root: Path) -> None:
    assert _lines(root, between_processes=True) < _SECOND_EVENING


def _lines(root: Path, *, between_processes: bool) -> int:
    kernel = root / "platform" / "kernel"
    files = [
        path
        for path in kernel.rglob("*.py")
        if "testing" not in path.parts
        and path.relative_to(kernel).as_posix().startswith(_BETWEEN_PROCESSES) == between_processes
    ]
    return sum(bool(line.strip()) for path in files for line in path.read_text().splitlines())
