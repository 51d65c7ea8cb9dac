"""Events in one process, images in another: the effects of a faulty network between them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.core.commands import invoke
from tests.modules.events.processes import Deployment, Network
from tests.modules.images.pictures import picture

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("place", ["two-processes"], indirect=True)]

URL = "/api/v1/events"
CONCERT: dict[str, Any] = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}


@pytest.fixture
async def network(deployment: Deployment) -> AsyncIterator[Network]:
    assert deployment.network is not None
    yield deployment.network
    deployment.network.is_down = False


async def image(client: httpx2.AsyncClient) -> int:
    sent = await client.post("/api/v1/images", files={"file": ("x", picture())})
    return int(sent.json()["id"])


async def ready(client: httpx2.AsyncClient, expected: dict[str, Any]) -> None:
    """Wait until the process of events reports this; it checks the other one periodically."""
    async with asyncio.timeout(20):
        while True:
            if (await client.get("/health/ready")).json() == expected:
                return
            await asyncio.sleep(0.02)


async def test_each_has_its_own_modules(client: httpx2.AsyncClient, deployment: Deployment) -> None:
    assert (await client.get("/health")).json()["modules"] == ["events", "health"]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{deployment.images.port}") as images:
        assert (await images.get(URL)).status_code == 404
        assert (await images.get("/api/v1/images")).status_code == 200
        assert (await images.post("/internal/contracts/images/get", json={"image_id": 1})).status_code == 401


def test_the_command_shows_the_address_of_each_module(root: Path, deployment: Deployment) -> None:
    assert deployment.network is not None
    done = invoke(root, "modules", "--json", ENABLED_MODULES="events", IMAGES_URL=deployment.network.url)
    events, images = json.loads(done.stdout)
    assert (events["name"], events["url"]) == ("events", None)
    assert (images["name"], images["provides"], images["url"]) == ("images", ["Images"], deployment.network.url)


async def test_duplicates_and_a_lost_answer_change_nothing(client: httpx2.AsyncClient, network: Network) -> None:
    image_id, lost, before = await image(client), network.lost, len(network.duplicates)
    assert (await client.post(URL, json=CONCERT | {"image_id": image_id})).status_code == 201
    assert (await client.post(URL, json=CONCERT | {"image_id": image_id + 1})).status_code == 422
    assert network.lost == lost + 1, "the first answer was lost"
    # Two calls. The first was repeated; a copy of a token is refused.
    assert network.duplicates[before:] == [401] * 3


async def test_many_simultaneous_requests_call_the_other_process(client: httpx2.AsyncClient, network: Network) -> None:
    image_id, before = await image(client), len(network.duplicates)
    event = CONCERT | {"image_id": image_id}
    answers = await asyncio.gather(*(client.post(URL, json=event) for _ in range(50)))
    assert [answer.status_code for answer in answers] == [201] * 50
    assert len(network.duplicates) - before == 51


async def test_while_images_cannot_be_reached_events_is_degraded_and_serves_the_rest(
    client: httpx2.AsyncClient, network: Network
) -> None:
    await ready(client, {"status": "ready"})
    network.is_down = True
    answer = await client.post(URL, json=CONCERT | {"image_id": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await client.post(URL, json=CONCERT)).status_code == 201
    await ready(client, {"status": "ready", "degraded": ["images.contract"]})
    health = (await client.get("/health")).json()
    assert health["status"] == "degraded"
    [images] = [one for one in health["components"] if one["component"] == "images.contract"]
    assert (images["healthy"], network.url in images["problem"]) == (False, True)
    network.is_down = False
    await ready(client, {"status": "ready"})
