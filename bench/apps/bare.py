"""FastAPI and one route: what a framework without an application costs."""

from fastapi import FastAPI

from bench.apps.schemas import Status


def application() -> FastAPI:
    """Make it."""
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> Status:
        return Status(status="alive")

    return app
