"""What `kernel check --prove` plants: for every rule its violations, and what only looks like one."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plant:
    """One change to the copy."""

    name: str
    # The file and what is added at its end, or (what is replaced, by what). A file that is not there is made.
    files: Mapping[str, str | tuple[str, str]]
    # Where it must be found; by default in its first file.
    at: str | None = None
    # Rules that it rightly breaks as well.
    also: frozenset[str] = field(default_factory=frozenset)

    @property
    def path(self) -> str:
        """The file at which a violation must be found."""
        return self.at or next(iter(self.files))


def plant(name: str, path: str, code: str | tuple[str, str], *also: str, at: str | None = None) -> Plant:
    """A plant in one file."""
    return Plant(name, {path: code}, at, frozenset(also))
