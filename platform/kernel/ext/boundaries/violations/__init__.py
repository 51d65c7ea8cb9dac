"""The cases of `kernel check --self-test`: violations of each rule, and valid examples that resemble them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One change to the copy of the project."""

    name: str
    # By file: the text to append, or (the text to replace, its replacement). A file that does not exist is created.
    files: Mapping[str, str | tuple[str, str]]
    # The file at which a violation must be found, by default the first; "" for any file.
    at: str | None = None
    # Other rules that the violation also breaks.
    also: frozenset[str] = field(default_factory=frozenset)

    @property
    def path(self) -> str:
        """The file at which a violation must be found."""
        return self.at or next(iter(self.files))


def edit(name: str, path: str, code: str | tuple[str, str], *also: str, at: str | None = None) -> Case:
    """Return a case that changes one file."""
    return Case(name, {path: code}, at, frozenset(also))
