"""The sources of settings: five layers of named text, highest first.

Environment variables, secret files (`/mnt/secrets`), `env_files/.env.{environment}`, `env_files/.env`, and the version
in `pyproject.toml`. The layers are read here because pydantic-settings puts dotenv files above secrets and reads no
nested secret files. pydantic-settings converts the text to typed values.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dotenv import dotenv_values

from kernel.errors import ProjectError

DEFAULT_SECRETS_DIR = "/mnt/secrets"
_MAX_SECRET_BYTES = 1 << 20  # Kubernetes' limit for a Secret
# Variables that Kubernetes injects for a Service ("docker links"). A Service may be called like one of our prefixes.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")


class Environment(StrEnum):
    """The four environments of the application. docs/settings.md lists their differences."""

    LOCAL = "local"
    DEV = "dev"
    UAT = "uat"
    PROD = "prod"


@dataclass(frozen=True)
class Fault:
    """One problem of the settings. It never contains a value, which might be a secret."""

    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


class SettingsError(ProjectError):
    """All problems of the settings, in one message."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"The settings have {len(self.faults)} problem(s):\n{lines}")


@dataclass(frozen=True)
class Layer:
    """Named text from one source. Names are upper case."""

    place: str
    values: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Sources:
    """All layers, highest first, and the problems found while reading them."""

    root: Path
    environment: str
    layers: tuple[Layer, ...]
    faults: tuple[Fault, ...] = ()

    @classmethod
    def read(cls, root: Path, environ: Mapping[str, str] | None = None) -> "Sources":
        """Read every layer. `root` is the folder that contains `modules/` and `env_files/`."""
        faults: list[Fault] = []
        variables = _variables(os.environ if environ is None else environ)
        secrets_dir = variables.values.get("SECRETS_DIR") or DEFAULT_SECRETS_DIR
        secrets = _secret_files(Path(secrets_dir), faults, must_exist="SECRETS_DIR" in variables.values)
        shared = _dotenv(root, ".env", faults)
        named = (
            layer.values["ENVIRONMENT"] for layer in (variables, secrets, shared) if layer.values.get("ENVIRONMENT")
        )
        environment = next(named, Environment.LOCAL).strip().lower()
        specific = _dotenv(root, f".env.{environment}" if environment in set(Environment) else None, faults)
        if specific.values.get("ENVIRONMENT", environment).strip().lower() != environment:
            faults.append(
                Fault("ENVIRONMENT", f"is {environment}, but {specific.place} sets another value: remove it there")
            )
        project = _project_file(root, faults)
        return cls(root, environment, (variables, secrets, specific, shared, project), tuple(faults))

    def origin(self, name: str) -> Layer | None:
        """Return the highest layer that sets `name` to a value that is not empty."""
        return next((layer for layer in self.layers if layer.values.get(name)), None)


def _variables(environ: Mapping[str, str]) -> Layer:
    ours = {name.upper(): value for name, value in environ.items() if not _is_service_link(name, value)}
    return Layer("environment", ours)


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in value)


def _secret_files(folder: Path, faults: list[Fault], *, must_exist: bool) -> Layer:
    """Read a folder in which each file is a setting: `database/password` and `DATABASE_PASSWORD` are the same one.

    Hidden names are skipped and links are followed: a Kubernetes mount keeps its files in a hidden folder and links to
    each of them.
    """
    values: dict[str, str] = {}
    if folder.is_dir():
        _read_secrets(folder, "", values, faults)
    elif must_exist:
        faults.append(Fault("SECRETS_DIR", f"{folder} is not a folder"))
    return Layer(str(folder), values)


def _read_secrets(folder: Path, prefix: str, values: dict[str, str], faults: list[Fault]) -> None:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        name = prefix + re.sub(r"[^A-Z0-9]", "_", path.name.upper())
        try:
            if path.is_dir():
                if path.resolve() in map(Path.resolve, path.parents):
                    faults.append(Fault(name, f"{path} is a link to a folder that contains it"))
                else:
                    _read_secrets(path, f"{name}_", values, faults)
            elif path.stat().st_size > _MAX_SECRET_BYTES:
                faults.append(Fault(name, f"the secret file {path} is larger than 1 MiB"))
            else:
                values[name] = path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            faults.append(Fault(name, f"the secret file {path} is not UTF-8 text"))
        except OSError as error:
            faults.append(Fault(name, f"the secret file {path} cannot be read ({error.strerror})"))


def _project_file(root: Path, faults: list[Fault]) -> Layer:
    """Read the application's version from the project's `pyproject.toml`, if there is one."""
    path = root / "pyproject.toml"
    values: dict[str, str] = {}
    try:
        version = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}).get("version")
        values = {} if version is None else {"APPLICATION_VERSION": str(version)}
    except FileNotFoundError:
        values = {}
    except (OSError, ValueError, AttributeError) as error:  # not UTF-8, not TOML, or `project` is not a table
        faults.append(Fault(path.name, f"cannot be read ({type(error).__name__})"))
    return Layer(path.name, values)


def _dotenv(root: Path, name: str | None, faults: list[Fault]) -> Layer:
    """Read a dotenv file; a missing one counts as empty. `$` is not expanded, because passwords may contain it."""
    if name is None or not (path := root / "env_files" / name).is_file():
        return Layer(f"env_files/{name or '.env'}", {})
    values: dict[str, str] = {}
    try:
        found = dotenv_values(path, encoding="utf-8-sig", interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault(f"env_files/{name}", f"cannot be read ({type(error).__name__})"))
        found = {}
    for key, value in found.items():
        if value is None:
            faults.append(Fault(key, f'env_files/{name} names it without a value: write "{key}=..."'))
        else:
            values[key.upper()] = value
    return Layer(f"env_files/{name}", values)
