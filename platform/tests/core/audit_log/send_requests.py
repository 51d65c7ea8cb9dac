"""Serve the project in the working directory in this process, and send it a GET and a POST."""

import asyncio
import json
import sys

import httpx2

from kernel.application import create_app
from kernel.testing.booting import talking_to


async def main() -> None:
    """Print the status of each response, and the components whose health is checked."""
    app = create_app()
    async with app.router.lifespan_context(app), talking_to(app) as client:
        read: httpx2.Response = await client.get("/api/v1/things")
        created = await client.post("/api/v1/things")
        checks = app.kernel.health_checks()
        await checks["audit_log"]()
        sys.stdout.write(json.dumps([read.status_code, created.status_code, sorted(checks)]))


if __name__ == "__main__":
    asyncio.run(main())
