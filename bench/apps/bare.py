"""FastAPI with one route and nothing else."""

from fastapi import FastAPI

from bench.apps.schemas import Status


def application() -> FastAPI:
    """Return the application."""
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> Status:
        return Status(status="alive")

    return app
