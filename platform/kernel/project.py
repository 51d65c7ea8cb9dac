"""Read the extensions, settings and modules of a project, once, before anything is opened."""

from collections.abc import Collection
from typing import NamedTuple

from kernel.extension import Extension, load_extensions
from kernel.modules.discovery import DiscoveredModule, discover
from kernel.settings import ApplicationSettings, Settings, SettingsError, Sources, find_root, read_group


class Project(NamedTuple):
    """The settings, the modules and the extensions of one application."""

    settings: Settings
    # Each after the modules it depends on.
    modules: tuple[DiscoveredModule, ...]
    # Each after the extensions it requires.
    extensions: tuple[type[Extension], ...]


def load_project(sources: Sources | None = None, elsewhere: Collection[str] = ()) -> Project:
    """Read the project at `sources`, by default the one around the working directory.

    Nothing is imported of the modules `elsewhere`, nor of those that an extension locates in other processes.
    Raises SettingsError, DiscoveryError and ExtensionError, each with all faults at once.
    """
    sources = sources or Sources.read(find_root())
    extensions = load_extensions(sources.root)
    try:
        enabled = read_group(ApplicationSettings, sources, "APPLICATION_").enabled_modules
    except SettingsError:  # reported below, together with everything else
        enabled = None
    elsewhere = {*elsewhere, *(name for kind in extensions for name in kind().locate(sources, enabled))}
    modules = discover(sources.root, enabled, elsewhere, extensions)
    types = {module.name: module.settings_type for module in modules}
    return Project(Settings.load(sources, types, elsewhere, extensions), modules, extensions)


def load_settings(sources: Sources | None = None) -> Settings:
    """Return the settings of a project alone: see load_project."""
    return load_project(sources).settings
