"""The applications to compare: how each is created, and the environment that it starts with."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

POOL_SIZE = 5
MAX_OVERFLOW = 10


@dataclass(frozen=True)
class AppSpec:
    """One application: `factory` is `module:function`."""

    name: str
    factory: str
    about: str
    on_sqlite: bool = False
    # The factor for the number of requests in a turn of a fast application, whose turn would otherwise be too short.
    more: int = 1

    def load(self) -> Any:
        """Create the application. It reads the environment and opens nothing."""
        module, _, function = self.factory.partition(":")
        make: Callable[[], Any] = getattr(import_module(module), function)
        return make()

    @property
    def is_ours(self) -> bool:
        return self.factory.startswith("kernel.")


APPS = {
    app.name: app
    for app in (
        AppSpec("bare", "bench.apps.bare:application", "FastAPI and one route, nothing else", more=2),
        AppSpec("limit", "bench.apps.limit:application", "raw ASGI, hand-written SQL on asyncpg's own pool", more=5),
        AppSpec("control", "bench.apps.control:application", "hand-tuned FastAPI with the SQLAlchemy ORM"),
        AppSpec("template", "bench.apps.template:application", "the way most templates do it"),
        AppSpec("ours", "kernel.serving:application", "this project, as in production"),
        AppSpec("control-sqlite", "bench.apps.control:application", "the control on SQLite", on_sqlite=True),
        AppSpec("ours-sqlite", "kernel.serving:application", "this project on SQLite", on_sqlite=True),
    )
}


@dataclass(frozen=True)
class Places:
    """The places of this run's databases and files."""

    database_url: str
    sqlite_folder: Path
    sqlite_file: Path
    images: Path
    logs: Path
    postgresql: Path


def environment(app: AppSpec, places: Places) -> dict[str, str]:
    """Return the whole environment of an application's process, without the caller's settings.

    PYTHONPATH is kept, so that another version of the kernel can be measured.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    variables = kept | {
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": places.database_url,
        "DATABASE_POOL_SIZE": str(POOL_SIZE),
        "DATABASE_MAX_OVERFLOW": str(MAX_OVERFLOW),
        "IMAGES_STORAGE_URL": f"file://{places.images}",
    }
    if app.is_ours:
        # As in production, but without authentication, which the other applications do not have.
        variables |= {
            "ENVIRONMENT": "dev",
            "APPLICATION_DEBUG": "false",
            "AUTH_ENABLED": "false",
            "CORS_ALLOW_ORIGINS": "https://example.com",
            "SERVER_HOST": "127.0.0.1",
            # In production the relay runs in processes of its own. Here its polls would count as statements of a
            # request.
            "MESSAGING_RELAY": "false",
        }
    if app.on_sqlite:
        variables["DATABASE_URL"] = (
            f"sqlite:///{places.sqlite_folder}" if app.is_ours else f"sqlite+aiosqlite:///{places.sqlite_file}"
        )
    return variables


def places_from(variables: Mapping[str, str]) -> tuple[str, int, int, Path]:
    """Return the settings that a comparison application reads: database URL, pool size, overflow, folder of images."""
    return (
        variables["DATABASE_URL"],
        int(variables["DATABASE_POOL_SIZE"]),
        int(variables["DATABASE_MAX_OVERFLOW"]),
        Path(variables["IMAGES_STORAGE_URL"].removeprefix("file://")),
    )
