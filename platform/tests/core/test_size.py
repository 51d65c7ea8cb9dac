"""The core stays small enough that one person reads it in an evening."""

from pathlib import Path

# Lines that are neither blank nor a comment, of all files of the kernel outside `ext` and `testing`.
_MOST = 7900


def test_the_core_can_be_read_in_an_evening(root: Path) -> None:
    kernel = root / "platform" / "kernel"
    core = [path for path in kernel.rglob("*.py") if path.relative_to(kernel).parts[0] not in {"ext", "testing"}]
    lines = sum(
        bool(line.strip()) and not line.lstrip().startswith("#")
        for path in core
        for line in path.read_text().splitlines()
    )
    assert lines <= _MOST
