"""Images without the modules that receive its messages."""

import httpx2
import pytest

from kernel.ext.messaging.testing import Messages
from modules.images.contract import ImageDeleted
from tests.modules.images.pictures import picture

pytestmark = pytest.mark.boots("images")

URL = "/api/v1/images"


@pytest.mark.integration
async def test_a_deleted_picture_is_published_once(client: httpx2.AsyncClient, messages: Messages) -> None:
    image_id = (await client.post(URL, files={"file": ("x", picture())})).json()["id"]
    assert (await client.delete(f"{URL}/{image_id}", headers={"If-Match": '"7"'})).status_code == 412
    assert await messages.published(ImageDeleted) == []
    assert (await client.delete(f"{URL}/{image_id}")).status_code == 204
    assert (await client.delete(f"{URL}/{image_id}")).status_code == 404
    assert await messages.published(ImageDeleted) == [ImageDeleted(image_id=image_id)]
