"""Typed settings, read once at the start. All problems are reported together."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pydantic_settings
from pydantic import ValidationError

from kernel.extension import Extension, installed, load_extensions
from kernel.settings.database import DatabaseConfig as DatabaseConfig
from kernel.settings.database import ModuleAddress
from kernel.settings.database import ModuleSettings as ModuleSettings
from kernel.settings.groups import ApplicationSettings as ApplicationSettings
from kernel.settings.groups import AuthSettings as AuthSettings
from kernel.settings.groups import HttpClientSettings as HttpClientSettings
from kernel.settings.groups import LogSettings as LogSettings
from kernel.settings.groups import ServerSettings as ServerSettings
from kernel.settings.groups import SettingsGroup as SettingsGroup
from kernel.settings.groups import reading
from kernel.settings.sources import Environment as Environment
from kernel.settings.sources import Fault as Fault
from kernel.settings.sources import SettingsError as SettingsError
from kernel.settings.sources import Sources as Sources

Group = TypeVar("Group", bound=SettingsGroup)
CORE_GROUPS: Mapping[str, type[SettingsGroup]] = {
    "application": ApplicationSettings,
    "database": DatabaseConfig,
    "http_client": HttpClientSettings,
    "log": LogSettings,
    "server": ServerSettings,
    "auth": AuthSettings,
}
# The user and password of a URL, and its query.
_CREDENTIALS = re.compile(r"(?<=://)\S*@")
_QUERY = re.compile(r"(?<=\?)\S+")


def find_root(start: Path | None = None) -> Path:
    """Return the project's folder: the nearest one with `modules/`, from `start` (the working directory) upwards."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "modules").is_dir():
            return folder
    raise SettingsError(
        [Fault(str(here), "no folder from here upwards contains modules/: change to the project's folder")]
    )


def is_reserved(module: str) -> bool:
    """Return whether the variables of a module with this name would be mistaken for others."""
    ours = [*map(_prefix, CORE_GROUPS.values()), *installed().variables, "OTEL_", "SECRETS_"]
    return any(one.startswith(f"{module.upper()}_") for one in ours)


@dataclass(frozen=True)
class Settings:
    """All settings of one application."""

    root: Path
    application: ApplicationSettings
    database: DatabaseConfig
    http_client: HttpClientSettings
    log: LogSettings
    server: ServerSettings
    auth: AuthSettings
    modules: Mapping[str, ModuleSettings]
    # The address of each module that runs in another process.
    elsewhere: Mapping[str, str]
    # The groups of the core and the extensions.
    groups: Mapping[type[SettingsGroup], SettingsGroup]
    sources: Sources
    # All groups.
    every: Sequence[SettingsGroup]

    @classmethod
    def load(
        cls,
        sources: Sources,
        modules: Mapping[str, type[ModuleSettings]],
        elsewhere: Collection[str] = (),
        extensions: Sequence[type[Extension]] | None = None,
    ) -> "Settings":
        """Build every group from `sources`. `modules` are the settings classes of the modules by name.

        For the modules `elsewhere`, only the address is read. `extensions` are by default those of the project. Raises
        ExtensionError, and SettingsError with all faults and without any value.
        """
        extensions = load_extensions(sources.root) if extensions is None else extensions
        kinds = (*CORE_GROUPS.values(), *(kind for extension in extensions for kind in extension.settings))
        of_modules = {name: (kind, f"{name.upper()}_") for name, kind in modules.items()}
        plan: list[tuple[type[SettingsGroup], str]] = [(kind, _prefix(kind)) for kind in kinds]
        plan += of_modules.values()
        # Without an address, the caller of create_app implements the module's contracts.
        addresses = {name: f"{name.upper()}_" for name in elsewhere if sources.origin(f"{name.upper()}_URL")}
        all_of_them = plan + [(ModuleAddress, prefix) for _, prefix in sorted(addresses.items())]
        built: dict[tuple[type[SettingsGroup], str], Any] = {}
        faults = list(sources.faults)
        for kind, prefix in all_of_them:
            try:
                built[kind, prefix] = read_group(kind, sources, prefix)
            except SettingsError as error:
                faults += error.faults
        faults += _unknown(sources, plan, {extension.name for extension in extensions})
        for extension in extensions:
            faults += extension().check_settings(sources, tuple(built.values()), elsewhere)
        if faults:
            raise SettingsError(dict.fromkeys(faults))
        groups = {kind: built[kind, _prefix(kind)] for kind in kinds}
        return cls(
            root=sources.root,
            sources=sources,
            groups=groups,
            every=tuple(built.values()),
            modules={name: built[one] for name, one in of_modules.items()},
            elsewhere={name: built[ModuleAddress, prefix].url for name, prefix in addresses.items()},
            **{name: groups[kind] for name, kind in CORE_GROUPS.items()},
        )

    def group(self, kind: type[Group]) -> Group:
        """Return the settings of an extension. Raises LookupError if it is not in use."""
        if kind not in self.groups:
            raise LookupError(f"no extension in use has the settings {kind.__name__}")
        return cast(Group, self.groups[kind])


def read_group(group: type[Group], sources: Sources, prefix: str | None = None) -> Group:
    """Build one group, with the prefix of its class by default. Raises SettingsError."""
    token = reading.set((sources, prefix))
    try:
        return group()
    except ValidationError as error:
        raise SettingsError(_explain(error, group, prefix)) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError([Fault((prefix or _prefix(group)).rstrip("_"), f"{error}: write it as JSON")]) from None
    finally:
        reading.reset(token)


def without_credentials(text: str) -> str:
    """Return the text with the user, password and query of every URL masked."""
    return _QUERY.sub("**********", _CREDENTIALS.sub("**********@", text)) if "://" in text else text


def _prefix(group: type[SettingsGroup]) -> str:
    return str(group.model_config.get("env_prefix"))


def _explain(error: ValidationError, group: type[SettingsGroup], prefix: str | None) -> Iterator[Fault]:
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        if detail["type"] == "default_factory_not_called":  # follows from an error of another field
            continue
        message = detail["msg"].removeprefix("Value error, ")
        field = str(detail["loc"][0]) if detail["loc"] else ""
        if field in group.model_fields:
            yield Fault(group.variable(field, prefix), message)
        elif field:
            yield Fault(field, message)
        else:  # from a validator of the group, whose message begins with the variable
            name, _, message = message.partition(" ")
            yield Fault(name, message)


def _unknown(
    sources: Sources, plan: Sequence[tuple[type[SettingsGroup], str]], in_use: Collection[str]
) -> Iterator[Fault]:
    """Yield a fault for each variable that looks like a setting and is none, with its extension or the closest name."""
    known = {group.variable(field, prefix) for group, prefix in plan for field in group.model_fields}
    of_extensions, prefixes = installed().variables, tuple(prefix for _, prefix in plan)
    plain = [name for name in known if not name.startswith(prefixes)]
    for layer, name in ((one, name) for one in sources.layers for name in one.values):
        if name in known or name.split("__")[0] in known:
            continue
        absent = [one for start, one in of_extensions.items() if name.startswith(start) and one not in in_use]
        candidates = known if name.startswith(prefixes) else plain
        meant = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6 if candidates is known else 0.85)
        if absent and layer.values[name]:
            problem = f"is a setting of the extension {absent[0]}, which is not in use"
            remedy = f": install platform-kernel[{absent[0]}], or remove the variable"
        elif meant or candidates is known:
            problem = "is not a setting"
            remedy = f". Did you mean {meant[0]}?" if meant else ": correct its name, or remove it"
        else:
            continue
        yield Fault(name, f"(from {layer.place}) {problem}{remedy}")
