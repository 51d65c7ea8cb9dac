"""Typed settings, read once at the start. All problems are reported together."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import pydantic_settings
from pydantic import BaseModel, SecretStr, ValidationError

from kernel.extension import Extension, load_extensions
from kernel.settings.auth import AuthSettings
from kernel.settings.groups import CORE_GROUPS as _GROUPS
from kernel.settings.groups import (
    ApplicationSettings,
    CorsSettings,
    DatabaseConfig,
    HttpClientSettings,
    LogSettings,
    ModuleSettings,
    SettingsGroup,
    address,
    reading,
)
from kernel.settings.server import ServerSettings
from kernel.settings.sources import Environment, Fault, SettingsError, Sources

__all__ = [
    "ApplicationSettings",
    "AuthSettings",
    "CorsSettings",
    "DatabaseConfig",
    "Environment",
    "Fault",
    "HttpClientSettings",
    "LogSettings",
    "ModuleSettings",
    "ServerSettings",
    "Setting",
    "Settings",
    "SettingsError",
    "SettingsGroup",
    "Sources",
    "find_root",
    "without_credentials",
]

Group = TypeVar("Group", bound=SettingsGroup)
CORE_GROUPS: Sequence[tuple[str, type[SettingsGroup]]] = (
    *_GROUPS,
    ("server", ServerSettings),
    ("auth", AuthSettings),
)
# The prefixes of the platform's extensions. They stay reserved when an extension is not installed.
EXTENSION_PREFIXES = {
    "MESSAGING_": "messaging",
    "INTERNAL_": "remote",
    "RATE_LIMIT_": "rate_limit",
    "IDEMPOTENCY_": "idempotency",
    "STORE_": "store",
    "TELEMETRY_": "telemetry",
}
# These settings of extensions share a prefix with the core.
_EXTENSION_VARIABLES = {
    **EXTENSION_PREFIXES,
    "SERVER_GZIP_": "compression",
    **dict.fromkeys(
        (
            "SERVER_BACKLOG",
            "SERVER_CLOSE_",
            "SERVER_DRAIN_",
            "SERVER_GRACEFUL_",
            "SERVER_KEEP_ALIVE_",
            "SERVER_MAX_",
            "SERVER_MINIMUM_",
            "SERVER_SLOW_",
            "SERVER_WORKER",
        ),
        "server",
    ),
}

# Module names whose variables would be mistaken for the kernel's.
RESERVED_NAMES = frozenset(
    {
        "application",
        "auth",
        "cors",
        "database",
        "http",
        "http_client",
        "log",
        "otel",
        "rate",
        "secrets",
        "server",
        *(prefix.rstrip("_").lower() for prefix in EXTENSION_PREFIXES),
    }
)
# The beginnings of placeholders for secrets in examples, tutorials, compose.yaml and env_files.
_EXAMPLES = (
    "change-me",
    "changeme",
    "example",
    "password",
    "secret",
    "postgres",
    "admin",
    "minioadmin",
    "guest",
    "local-only",
    "test",
    "todo",
    "xxx",
)
# The secret entries of a dictionary or of a URL's query. Other entries are regions, buckets and endpoints.
_SECRET_ENTRY = re.compile(r"key|secret|token|password|credential|sas|sig", re.IGNORECASE)
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


@dataclass(frozen=True)
class Setting:
    """One setting as `kernel settings` shows it: the variable, the value (secrets masked) and its source."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True)
class Settings:
    """All settings of one application."""

    root: Path
    application: ApplicationSettings
    database: DatabaseConfig
    http_client: HttpClientSettings
    cors: CorsSettings
    log: LogSettings
    auth: AuthSettings
    server: ServerSettings
    modules: Mapping[str, ModuleSettings]
    # The address of each module that runs in another process.
    elsewhere: Mapping[str, str]
    # The settings of the extensions.
    groups: Mapping[type[SettingsGroup], SettingsGroup]
    sources: Sources

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
        faults = list(sources.faults)
        built: dict[str, SettingsGroup] = {}
        plan = [(name, group, str(group.model_config.get("env_prefix"))) for name, group in CORE_GROUPS]
        kinds = [group for extension in extensions for group in extension.settings]
        plan += [(f"extensions.{group.__name__}", group, str(group.model_config.get("env_prefix"))) for group in kinds]
        plan += [(f"modules.{name}", group, f"{name.upper()}_") for name, group in modules.items()]
        for name, group, prefix in plan:
            try:
                built[name] = read_group(group, sources, prefix)
                faults += _unsafe_secrets(built[name], sources, prefix)
            except SettingsError as error:
                faults += error.faults
        faults += (absent := list(_of_absent_extensions(sources, {extension.name for extension in extensions})))
        misspelled = _misspelled(sources, [(group, prefix) for _, group, prefix in plan])
        faults += [fault for fault in misspelled if fault.name not in {one.name for one in absent}]
        addresses = dict(_addresses(sources, elsewhere, faults))
        groups = {group: built.pop(name) for name, group, _ in plan if group in kinds and name in built}
        for extension in extensions:
            faults += extension().check_settings(sources, groups, elsewhere)
        if faults:
            raise SettingsError(dict.fromkeys(faults))
        own = {name: built.pop(f"modules.{name}") for name in modules}
        return cls(root=sources.root, sources=sources, modules=own, elsewhere=addresses, groups=groups, **built)  # type: ignore[arg-type]  # by CORE_GROUPS

    def group(self, kind: type[Group]) -> Group:
        """Return the settings of an extension. Raises LookupError if it is not in use."""
        if kind not in self.groups:
            raise LookupError(f"no extension in use has the settings {kind.__name__}")
        return cast(Group, self.groups[kind])

    def describe(self) -> Iterator[Setting]:
        """Yield every setting with its value and source."""
        for name, _ in CORE_GROUPS:
            group: SettingsGroup = getattr(self, name)
            yield from self._describe(group, str(group.model_config.get("env_prefix")))
        for group in self.groups.values():
            yield from self._describe(group, str(group.model_config.get("env_prefix")))
        for name, own in self.modules.items():
            yield from self._describe(own, f"{name.upper()}_")
        for name, url in self.elsewhere.items():
            layer = self.sources.origin(f"{name.upper()}_URL")
            yield Setting(f"{name.upper()}_URL", url, layer.place if layer else "default")

    def _describe(self, group: SettingsGroup, prefix: str) -> Iterator[Setting]:
        for field_name in type(group).model_fields:
            if field_name == "environment" and not isinstance(group, ApplicationSettings):
                continue
            name = group.variable(field_name, prefix)
            layer = self.sources.origin(name)
            value = getattr(group, field_name)
            text = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
            yield Setting(name, without_credentials(text), layer.place if layer else "default")


def read_group(group: type[Group], sources: Sources, prefix: str) -> Group:
    """Build one group. Raises SettingsError."""
    token = reading.set((sources, prefix))
    try:
        return group()
    except ValidationError as error:
        raise SettingsError(_explain(error, group, prefix)) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError([Fault(prefix.rstrip("_"), f"{error}: write it as JSON")]) from None
    finally:
        reading.reset(token)


def _addresses(sources: Sources, elsewhere: Collection[str], faults: list[Fault]) -> Iterator[tuple[str, str]]:
    for name in sorted(elsewhere):
        variable = f"{name.upper()}_URL"
        if (layer := sources.origin(variable)) is None:
            continue  # the caller of create_app implements its contracts
        try:
            yield name, address(layer.values[variable])
        except ValueError as error:
            faults.append(Fault(variable, str(error)))


def _of_absent_extensions(sources: Sources, in_use: Collection[str]) -> Iterator[Fault]:
    """Yield a fault for each variable of an extension that is not in use, because it would have no effect."""
    absent = {prefix: name for prefix, name in _EXTENSION_VARIABLES.items() if name not in in_use}
    for layer in sources.layers:
        for variable, value in layer.values.items():
            for prefix, name in absent.items():
                if value and variable.startswith(prefix):
                    problem = f"(from {layer.place}) is a setting of the extension {name}, which is not in use"
                    yield Fault(variable, f"{problem}: install platform-kernel[{name}], or remove the variable")


def _explain(error: ValidationError, group: type[SettingsGroup], prefix: str) -> Iterator[Fault]:
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


def _unsafe_secrets(group: SettingsGroup, sources: Sources, prefix: str) -> Iterator[Fault]:
    """Yield the secrets that are empty or an example, in UAT and PROD."""
    if group.environment not in {Environment.UAT, Environment.PROD}:
        return
    for field_name, field in type(group).model_fields.items():
        name = group.variable(field_name, prefix)
        if "SecretStr" in str(field.annotation) and sources.is_given_empty(name):
            yield Fault(
                name, f"is empty, which is refused in {group.environment}: set the secret or remove the variable"
            )
        for place, secret in _secrets(name, getattr(group, field_name)):
            if _is_example(secret):
                yield Fault(place, f"is an example secret, which is refused in {group.environment}: set another one")


def _secrets(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield every secret in a value, at any depth, with the variable that sets it."""
    match value:
        case SecretStr():
            yield name, value.get_secret_value()
        case BaseModel():
            for field in type(value).model_fields:
                yield from _secrets(f"{name}__{field.upper()}", getattr(value, field))
        case Mapping():
            for key, one in value.items():
                if not isinstance(one, SecretStr) or _SECRET_ENTRY.search(str(key)):
                    yield from _secrets(f"{name}__{str(key).upper()}", one)
        case list() | tuple() | set() | frozenset():
            for one in value:
                yield from _secrets(name, one)


def _is_example(secret: str) -> bool:
    """Return whether a secret, one of several separated by commas, or the password in a URL is an example."""
    if "://" in secret:
        url = urlsplit(secret)
        parts = [value for key, value in parse_qsl(url.query) if _SECRET_ENTRY.search(key)]
        parts.append(unquote(url.password or ""))
    else:
        parts = secret.split(",")
    return any(part.strip().strip("<>").lower().startswith(_EXAMPLES) for part in parts)


def without_credentials(text: str) -> str:
    """Return the text with the user, password and query of every URL masked."""
    return _QUERY.sub("**********", _CREDENTIALS.sub("**********@", text)) if "://" in text else text


def _misspelled(sources: Sources, plan: list[tuple[type[SettingsGroup], str]]) -> Iterator[Fault]:
    """Yield a fault for each variable that has a prefix of ours but is not a setting, with the closest name."""
    known = {group.variable(field, prefix) for group, prefix in plan for field in group.model_fields}
    prefixes = tuple(prefix for _, prefix in plan)
    plain = [name for name in known if not name.startswith(prefixes)]
    for layer in sources.layers:
        for name in layer.values:
            if name in known or name.split("__")[0] in known:
                continue
            candidates = known if name.startswith(prefixes) else plain
            meant = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6 if candidates is known else 0.85)
            if meant:
                yield Fault(name, f"(from {layer.place}) is not a setting. Did you mean {meant[0]}?")
            elif candidates is known:
                yield Fault(name, f"(from {layer.place}) is not a setting. List the settings with: kernel settings")
