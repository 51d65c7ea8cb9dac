"""The kernel stays small enough to be read in an evening."""

from pathlib import Path

_EVENING = 5000


def test_the_kernel_can_be_read_in_an_evening(root: Path) -> None:
    """All that an application runs, without blank lines; `kernel.testing` is for tests."""
    kernel = root / "platform" / "kernel"
    files = [path for path in kernel.rglob("*.py") if "testing" not in path.parts]
    lines = sum(bool(line.strip()) for path in files for line in path.read_text().splitlines())
    assert lines < _EVENING
