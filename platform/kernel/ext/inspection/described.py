"""Describe the settings of an application."""

from collections.abc import Iterator
from typing import NamedTuple

from kernel.settings import Settings, without_credentials


class Setting(NamedTuple):
    """One setting: the variable, the value (secrets masked) and its source."""

    name: str
    value: str
    origin: str


def describe(settings: Settings) -> Iterator[Setting]:
    """Yield every setting, each once."""
    for name, value in dict(one for group in settings.every for one in group.values()).items():
        layer = settings.sources.origin(name)
        text = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        yield Setting(name, without_credentials(text), layer.place if layer else "default")
