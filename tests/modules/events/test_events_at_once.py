"""Many simultaneous requests for events with an image: each needs two modules, on a pool of a few connections."""

import asyncio
import io

import httpx2
import pytest
from PIL import Image

from kernel.ext.roles.settings import RoleSettings
from kernel.settings import Settings

CONCERT = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}


@pytest.fixture
def variables(variables: dict[str, str]) -> dict[str, str]:
    return variables | {
        "DATABASE_POOL_SIZE": "5",
        "DATABASE_MAX_OVERFLOW": "0",
        # 200 callers in one process wait for the processor. None may wait for a connection that is never released.
        "DATABASE_POOL_TIMEOUT_SECONDS": "10",
        "DATABASE_POOL_SHARE_TIMEOUT_SECONDS": "10",
    }


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_200_requests_that_call_another_module_finish_on_a_pool_of_5(
    settings: Settings, client: httpx2.AsyncClient
) -> None:
    assert (settings.database.pool_size, settings.database.max_overflow) == (5, 0)
    assert settings.group(RoleSettings).role_per_module
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    sent = await client.post("/api/v1/images", files={"file": ("one.png", picture.getvalue(), "image/png")})
    assert sent.status_code == 201, sent.text
    event = CONCERT | {"image_id": sent.json()["id"]}
    answers = await asyncio.gather(*(client.post("/api/v1/events", json=event) for _ in range(200)))
    assert [answer.status_code for answer in answers] == [201] * 200
