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

# The dependencies of the booted module: fakes; the real modules with fakes of their own dependencies; or the whole
# application.
Dependencies = Literal["fakes", "direct", "all"]

PATIENT = {"DATABASE_POOL_TIMEOUT_SECONDS": "10"}
"""Parallel tests may delay the disk and the processor by a second, after which the default would refuse requests."""


class Booted(NamedTuple):
    """A started application, a client of it, and the fakes of the modules that do not run."""

    application: Application
    client: httpx2.AsyncClient
    fakes: Fakes


@dataclass(frozen=True)
class Choice:
    """The modules that run (None: all), and the modules that are fakes."""

    root: Path
    enabled: frozenset[str] | None = None
    elsewhere: frozenset[str] = frozenset()

    @classmethod
    def of(cls, root: Path, module: str, dependencies: Dependencies) -> "Choice":
        """Choose a module and its dependencies.

        Only the contracts of other modules are imported. Raises DiscoveryError.
        """
        if dependencies == "all":
            return cls(root)
        names = {folder.name for folder in (root / "modules").iterdir() if folder.is_dir()}
        enabled = {module}
        if dependencies == "direct":
            [alone] = discover(root, enabled, names - enabled)
            enabled |= alone.manifest.depends_on
        return cls(root, frozenset(enabled), frozenset(names - enabled))

    def project(self, variables: Mapping[str, str]) -> Project:
        """Return the modules that run, with settings from these variables only."""
        if self.enabled is not None:
            variables = {**variables, "ENABLED_MODULES": ",".join(sorted(self.enabled))}
        return project_for(self.root, variables, self.elsewhere)

    def fakes(self, project: Project) -> Fakes:
        """Return a fake of every contract that a module of the project may use and none of them provides."""
        needed = {name for module in project.modules for name in module.manifest.depends_on} & self.elsewhere
        return Fakes(contract for name in sorted(needed) for contract in contracts_of(self.root, name))


def project_for(root: Path, variables: Mapping[str, str], elsewhere: Collection[str] = ()) -> Project:
    """Return the project at `root` with settings from these variables only: no files, no environment."""
    environment = variables.get("ENVIRONMENT", Environment.LOCAL)
    variables = {"APPLICATION_STRICT_CONTRACT_CALLS": "true", **PATIENT, **variables}
    return load_project(Sources(root, environment, (Layer("test", variables),)), elsewhere)


def settings_for(root: Path, variables: Mapping[str, str]) -> Settings:
    """Return the settings only: see project_for."""
    return project_for(root, variables).settings


@asynccontextmanager
async def booted(
    root: Path, module: str, variables: Mapping[str, str], dependencies: Dependencies = "fakes"
) -> AsyncIterator[Booted]:
    """Start one module of the project at `root`, with settings from these variables only.

    Without ENVIRONMENT it is LOCAL, where the start creates the tables. Raises FakeMisused at the end if a fake was
    called in a way that its contract does not allow.
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
    """Provide a client that sends HTTP requests to the application in this process."""
    transport = httpx2.ASGITransport(application, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
