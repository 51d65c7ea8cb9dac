"""Applications of one module: alone, with its direct dependencies, or with all modules."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import httpx2

from kernel.application import Application, create_app
from kernel.modules.discovery import contracts_of, discover
from kernel.project import Project, load_project
from kernel.settings import Environment, Settings
from kernel.settings.sources import Layer, Sources
from kernel.testing.fakes import Fakes

# What the module that is booted depends on: fakes; the modules themselves, with fakes of what those depend on; or
# the whole application.
Dependencies = Literal["fakes", "direct", "all"]

PATIENT = {"DATABASE_POOL_TIMEOUT_SECONDS": "10"}
"""The disk and the processor of many tests may stall for a second, which is no reason to shed; what is stuck stays."""


class Booted(NamedTuple):
    """A started application, a client that talks to it, and what stands in for the modules that are not in it."""

    application: Application
    client: httpx2.AsyncClient
    fakes: Fakes


@dataclass(frozen=True)
class Choice:
    """The modules that run (None: all) and those that others answer for."""

    root: Path
    enabled: frozenset[str] | None = None
    elsewhere: frozenset[str] = frozenset()

    @classmethod
    def of(cls, root: Path, module: str, dependencies: Dependencies) -> "Choice":
        """Nothing is loaded of the modules that do not run but their contracts. Raises DiscoveryError."""
        if dependencies == "all":
            return cls(root)
        names = {folder.name for folder in (root / "modules").iterdir() if folder.is_dir()}
        enabled = {module}
        if dependencies == "direct":
            [alone] = discover(root, enabled, names - enabled)
            enabled |= alone.manifest.depends_on
        return cls(root, frozenset(enabled), frozenset(names - enabled))

    def project(self, variables: Mapping[str, str]) -> Project:
        """The modules that run, and their settings from these variables alone."""
        if self.enabled is not None:
            variables = {**variables, "ENABLED_MODULES": ",".join(sorted(self.enabled))}
        return project_for(self.root, variables, self.elsewhere)

    def fakes(self, project: Project) -> Fakes:
        """A fake of every contract that a module of the project may use and none of them provides."""
        needed = {name for module in project.modules for name in module.manifest.depends_on} & self.elsewhere
        return Fakes(contract for name in sorted(needed) for contract in contracts_of(self.root, name))


def project_for(root: Path, variables: Mapping[str, str], elsewhere: Collection[str] = ()) -> Project:
    """The project at `root`, its settings from these variables alone: no files, no environment."""
    environment = variables.get("ENVIRONMENT", Environment.LOCAL)
    variables = {"APPLICATION_STRICT_CONTRACT_CALLS": "true", **PATIENT, **variables}
    return load_project(Sources(root, environment, (Layer("test", variables),)), elsewhere)


def settings_for(root: Path, variables: Mapping[str, str]) -> Settings:
    """The settings alone: see project_for."""
    return project_for(root, variables).settings


@asynccontextmanager
async def booted(
    root: Path, module: str, variables: Mapping[str, str], dependencies: Dependencies = "fakes"
) -> AsyncIterator[Booted]:
    """One module of the project at `root`, started with settings from these variables alone.

    Without an ENVIRONMENT among them it is LOCAL, where the start makes the tables. Raises FakeMisused at the end if
    a fake was asked what its contract does not allow.
    """
    choice = Choice.of(root, module, dependencies)
    project = choice.project(variables)
    fakes = choice.fakes(project)
    app = create_app(project.settings, project.modules, contracts=fakes.clients())
    async with app.router.lifespan_context(app), talking_to(app) as client:
        yield Booted(app, client, fakes)
    fakes.verify()


@asynccontextmanager
async def talking_to(application: Application) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that talks to the application as HTTP would, in this process."""
    transport = httpx2.ASGITransport(application, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
