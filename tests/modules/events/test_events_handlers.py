"""How events handles the message that a picture was deleted: in one process, and in two with a relay."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.modules.images.pictures import picture

EVENT = {"title": "Opening", "date": "2026-12-01", "time": "18:00:00"}


@pytest.mark.integration
async def test_events_forget_a_picture_that_was_deleted(client: httpx2.AsyncClient) -> None:
    uploaded = await client.post("/api/v1/images", files={"file": ("a.png", picture())})
    image_id = uploaded.json()["id"]
    with_picture = (await client.post("/api/v1/events", json=EVENT | {"image_id": image_id})).json()
    other = (await client.post("/api/v1/events", json=EVENT)).json()
    assert (await client.delete(f"/api/v1/images/{image_id}")).status_code == 204
    async with asyncio.timeout(10):
        while (event := await _read(client, with_picture["id"]))["image_id"] is not None:  # noqa: ASYNC110  # in the database
            await asyncio.sleep(0.01)
    assert event["version"] == with_picture["version"] + 1
    assert await _read(client, other["id"]) == other


async def _read(client: httpx2.AsyncClient, event_id: int) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/events/{event_id}")
    return dict(answer.json())
