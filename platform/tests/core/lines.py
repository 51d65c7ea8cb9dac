"""Count the lines of the kernel that are neither blank nor a comment: `make lines` prints them."""

import sys
from pathlib import Path

KERNEL = Path(__file__).parents[2] / "kernel"
# Not part of a process that serves requests.
APART = ("ext", "testing")


def lines_of(path: Path) -> int:
    """Return the number of lines of a file, or of all Python files below a folder."""
    files = path.rglob("*.py") if path.is_dir() else [path]
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#")
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
    )


def parts_of(folder: Path) -> dict[str, int]:
    """Return the lines of each folder of a folder; its own files count together."""
    parts = {path.name: lines_of(path) for path in sorted(folder.iterdir()) if path.is_dir() and lines_of(path)}
    own = sum(lines_of(path) for path in folder.glob("*.py"))
    return {"*.py": own, **parts} if own else parts


def core() -> dict[str, int]:
    """Return the lines of each folder of the core."""
    return {name: count for name, count in parts_of(KERNEL).items() if name not in APART}


def main() -> None:
    """Print the lines of the core, of its test support and of each extension."""
    tables = {
        "Core": core(),
        "Test support": {"testing": lines_of(KERNEL / "testing")},
        "Extensions": {name: count for name, count in parts_of(KERNEL / "ext").items() if count},
    }
    for title, parts in tables.items():
        sys.stdout.write(f"{title:<20}{sum(parts.values()):>7,}\n")
        for name, count in sorted(parts.items(), key=lambda part: -part[1]):
            sys.stdout.write(f"  {name:<18}{count:>7,}\n")


if __name__ == "__main__":
    main()
