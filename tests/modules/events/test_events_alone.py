"""Events without images: how it treats each answer that the contract allows."""

from typing import Any

import httpx2
import pytest

from kernel.application import Application
from kernel.ext.messaging.testing import Messages
from kernel.modules.contracts import ContractUnavailable
from kernel.testing import Fakes
from modules.images.contract import ImageDeleted, ImageInfo, Images

pytestmark = pytest.mark.boots("events")

URL = "/api/v1/events"
CONCERT: dict[str, Any] = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}
PICTURE = ImageInfo(id=7, caption="Stage", content_type="image/png", width=640, height=480)


async def test_nothing_else_runs(application: Application, fakes: Fakes) -> None:
    assert [module.name for module in application.kernel.modules] == ["events"]
    assert list(fakes) == [Images]


async def test_an_event_with_an_image_that_exists_is_created(client: httpx2.AsyncClient, fakes: Fakes) -> None:
    fakes[Images].get.answers(PICTURE)
    answer = await client.post(URL, json=CONCERT | {"image_id": 7})
    assert (answer.status_code, answer.json()["image_id"]) == (201, 7)
    assert fakes[Images].get.calls == [{"image_id": 7}]


async def test_an_event_with_an_image_that_is_missing_is_refused(client: httpx2.AsyncClient, fakes: Fakes) -> None:
    fakes[Images].get.answers(None)
    answer = await client.post(URL, json=CONCERT | {"image_id": 7})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body.image_id")
    assert (await client.get(URL)).json()["items"] == []


async def test_while_images_are_unavailable_the_caller_gets_503_with_retry_after(
    client: httpx2.AsyncClient, fakes: Fakes
) -> None:
    fakes[Images].get.raises(ContractUnavailable("refused"))
    answer = await client.post(URL, json=CONCERT | {"image_id": 7})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "refused" not in answer.text
    assert (await client.get(URL)).json()["items"] == []


async def test_events_without_an_image_do_not_call_images(client: httpx2.AsyncClient, fakes: Fakes) -> None:
    fakes[Images].get.raises(ContractUnavailable("refused"))
    created = (await client.post(URL, json=CONCERT)).json()
    assert (await client.patch(f"{URL}/{created['id']}", json={"title": "Play"})).status_code == 200
    assert (await client.get(URL)).json()["items"][0]["title"] == "Play"
    assert fakes[Images].get.calls == []


@pytest.mark.integration
@pytest.mark.boots("events", dependencies="direct")
async def test_with_direct_dependencies_events_calls_the_real_images(
    application: Application, client: httpx2.AsyncClient, fakes: Fakes
) -> None:
    from tests.modules.images.pictures import picture  # noqa: PLC0415  # the others here can do without images

    assert [module.name for module in application.kernel.modules] == ["images", "events"]
    assert not fakes
    image = (await client.post("/api/v1/images", files={"file": ("x", picture())})).json()
    assert (await client.post(URL, json=CONCERT | {"image_id": image["id"]})).status_code == 201
    assert (await client.post(URL, json=CONCERT | {"image_id": image["id"] + 1})).status_code == 422


async def test_an_event_forgets_a_deleted_image(client: httpx2.AsyncClient, fakes: Fakes, messages: Messages) -> None:
    fakes[Images].get.answers(PICTURE)
    url = (await client.post(URL, json=CONCERT | {"image_id": 7})).headers["Location"]
    await messages.deliver(ImageDeleted(image_id=8))
    assert (await client.get(url)).json()["image_id"] == 7
    await messages.deliver(ImageDeleted(image_id=7))
    assert (await client.get(url)).json()["image_id"] is None
