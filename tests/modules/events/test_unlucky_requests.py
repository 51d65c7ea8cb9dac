"""Common mistakes of clients: conditions on a change, numbers that no column holds, unsupported methods."""

from base64 import urlsafe_b64encode

import httpx2
import pytest
from sqlalchemy.exc import DBAPIError

from kernel.application import Application
from kernel.database.errors import violation_of
from modules.images.contract import Images

EVENTS = "/api/v1/events"
EVENT = {"title": "Concert", "date": "2030-05-01", "time": "20:00"}


async def test_a_change_never_gets_304(client: httpx2.AsyncClient) -> None:
    made = await client.post(EVENTS, json=EVENT, headers={"if-none-match": '"1", "2"'})
    assert made.status_code == 201
    where = made.headers["location"]
    changed = await client.patch(where, json={"title": "Opera"}, headers={"if-none-match": '"2"'})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert (await client.get(where)).json()["title"] == "Opera"
    assert (await client.get(where, headers={"if-none-match": "*"})).status_code == 304


async def test_a_change_that_requires_a_missing_row_fails_if_the_row_exists(client: httpx2.AsyncClient) -> None:
    where = (await client.post(EVENTS, json=EVENT)).headers["location"]
    for method in ("PUT", "PATCH"):
        answer = await client.request(method, where, json=EVENT | {"title": "Opera"}, headers={"if-none-match": "*"})
        assert answer.status_code == 412
    assert (await client.get(where)).json()["title"] == "Concert"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
async def test_a_number_that_exceeds_every_column_is_out_of_range(application: Application, number: int) -> None:
    port = application.kernel.contracts[Images]
    assert isinstance(port, Images)
    with pytest.raises(DBAPIError) as caught:
        await port.get(number)
    assert violation_of(caught.value) == "value"


@pytest.mark.parametrize("cursor", ["2030-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_a_cursor_with_an_invalid_time_is_refused(client: httpx2.AsyncClient, cursor: str) -> None:
    made = (await client.post(EVENTS, json=EVENT)).json()
    text = urlsafe_b64encode(f'["created_at,id", "{cursor}", {made["id"]}]'.encode()).decode()
    answer = await client.get(EVENTS, params={"sort": "created_at", "cursor": text})
    assert answer.status_code == 422


async def test_a_path_lists_all_its_methods(client: httpx2.AsyncClient) -> None:
    for path, methods in ((EVENTS, "GET, HEAD, POST"), (f"{EVENTS}/1", "DELETE, GET, HEAD, PATCH, PUT")):
        answer = await client.request("PURGE", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
