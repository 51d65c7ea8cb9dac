"""Where settings come from: five layers of named text, highest first.

Environment variables, then secret files (`/mnt/secrets`), then `env_files/.env.{environment}`, then
`env_files/.env`, then the version in `pyproject.toml`. pydantic-settings would put dotenv files above secrets and
reads no nested secret files, so the layers are read here; turning their text into typed values is left to
pydantic-settings.
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
_LARGEST_SECRET_BYTES = 1 << 20  # Kubernetes allows no larger Secret
# What Kubernetes injects for a Service of the same name as one of our prefixes ("docker links"); it is not ours.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")


class Environment(StrEnum):
    """The four places where the application runs. They differ as the table in docs/settings.md says."""

    LOCAL = "local"
    DEV = "dev"
    UAT = "uat"
    PROD = "prod"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the settings. It never holds a value, which might be a secret."""

    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


class SettingsError(ProjectError):
    """Everything that is wrong with the settings, in one message."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"The settings have {len(self.faults)} problem(s):\n{lines}")


@dataclass(frozen=True)
class Layer:
    """Named text from one place. Names are upper case."""

    place: str
    values: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Sources:
    """All layers, highest first, and what went wrong while reading them."""

    root: Path
    environment: str
    layers: tuple[Layer, ...]
    faults: tuple[Fault, ...] = ()

    @classmethod
    def read(cls, root: Path, environ: Mapping[str, str] | None = None) -> "Sources":
        """Read every layer below `root`, the folder that holds `modules/` and `env_files/`."""
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
                Fault("ENVIRONMENT", f"{specific.place} is read because it is {environment}, but sets another")
            )
        project = _project_file(root, faults)
        return cls(root, environment, (variables, secrets, specific, shared, project), tuple(faults))

    def origin(self, name: str) -> Layer | None:
        """The highest layer that gives `name` a value; an empty one counts as not given."""
        return next((layer for layer in self.layers if layer.values.get(name)), None)

    def is_given_empty(self, name: str) -> bool:
        """Whether the highest layer that mentions `name` leaves it empty."""
        mentioned = next((layer for layer in self.layers if name in layer.values), None)
        return mentioned is not None and not mentioned.values[name]


def _variables(environ: Mapping[str, str]) -> Layer:
    ours = {name.upper(): value for name, value in environ.items() if not _is_service_link(name, value)}
    return Layer("environment", ours)


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in value)


def _secret_files(folder: Path, faults: list[Fault], *, must_exist: bool) -> Layer:
    """Each file is a setting: `database/password` and `DATABASE_PASSWORD` both name the latter.

    A Kubernetes mount keeps the files in a hidden, dated folder behind the symlink `..data`, and shows each through
    a symlink of its own: hidden names are passed over, links are followed.
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
            elif path.stat().st_size > _LARGEST_SECRET_BYTES:
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
    except (OSError, ValueError, AttributeError) as error:  # it is not UTF-8, not TOML, or `project` is no table
        faults.append(Fault(path.name, f"cannot be read ({type(error).__name__})"))
    return Layer(path.name, values)


def _dotenv(root: Path, name: str | None, faults: list[Fault]) -> Layer:
    """A dotenv file; a missing one is empty. `$` is taken literally: passwords contain it."""
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
