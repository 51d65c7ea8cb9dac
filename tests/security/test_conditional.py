"""Conditional requests with very many tags (OWASP API4:2023)."""

import httpx2
import pytest

from kernel.application import Application
from kernel.testing.booting import talking_to
from tests.modules.images.pictures import picture

EVENT = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Berlin"}


def tags(count: int) -> str:
    """Return a header of this many tags, of which `"1"` is the last."""
    return ", ".join(f'"{number}"' for number in range(count, 0, -1))


@pytest.mark.parametrize(("count", "status"), [(20, 200), (21, 422), (9_000, 422)])
@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_a_change_that_names_too_many_versions_is_refused(
    application: Application, method: str, count: int, status: int
) -> None:
    async with talking_to(application) as client:
        event = (await client.post("/api/v1/events", json=EVENT)).json()
        body = None if method == "DELETE" else EVENT
        path, headers = f"/api/v1/events/{event['id']}", {"If-Match": tags(count)}
        answer = await client.request(method, path, json=body, headers=headers)
        assert answer.status_code == (204 if (method, status) == ("DELETE", 200) else status)
        if status == 422:
            [error] = answer.json()["errors"]
            assert error["field"] == "header.if-match"
            assert error["message"] == "contains more than 20 tags: send only those of the versions that you have"
            assert (await client.get(path)).json()["version"] == 1, "the event must not change"


@pytest.mark.parametrize(("count", "status"), [(20, 304), (21, 422)])
async def test_a_read_that_names_too_many_versions_is_refused(
    application: Application, count: int, status: int
) -> None:
    async with talking_to(application) as client:
        event = (await client.post("/api/v1/events", json=EVENT)).json()
        known = {"If-None-Match": tags(count)}
        answer = await client.get(f"/api/v1/events/{event['id']}", headers=known)
        assert answer.status_code == status


@pytest.mark.integration
async def test_the_content_of_an_image_is_not_compared_with_too_many_tags(application: Application) -> None:
    async with talking_to(application) as client:
        image = (await client.post("/api/v1/images", files={"file": ("a.png", picture(), "image/png")})).json()
        for part in ("content", "thumbnail"):
            known = {"If-None-Match": tags(21)}
            answer = await client.get(f"/api/v1/images/{image['id']}/{part}", headers=known)
            assert refusal(answer) == (422, "header.if-none-match")


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["field"]
