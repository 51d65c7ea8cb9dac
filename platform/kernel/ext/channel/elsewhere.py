"""The modules that run in other processes."""

from collections.abc import Collection
from pathlib import Path

from kernel.settings import Sources


def has_code(root: Path, name: str) -> bool:
    """Return whether the project contains this module. One that it does not contain can only run elsewhere."""
    return (root / "modules" / name / "module.py").is_file()


def with_address(sources: Sources, enabled: Collection[str] | None) -> set[str]:
    """Return the modules of the project whose address is set (`IMAGES_URL`) and that ENABLED_MODULES does not name."""
    names = {folder.name for folder in (sources.root / "modules").glob("*")}
    return {name for name in names if sources.origin(f"{name.upper()}_URL") and name not in (enabled or ())}
