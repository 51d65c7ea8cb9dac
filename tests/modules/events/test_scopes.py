"""The scopes that events requires, which are checked before anything else."""

import httpx2
import pytest

from kernel.testing import Callers


@pytest.mark.boots("events")
@pytest.mark.parametrize("compiled", ["true", "false"])
class TestBothWays:
    """The compiled endpoint, and FastAPI's own resolution of dependencies."""

    @pytest.fixture
    def variables(self, variables: dict[str, str], compiled: str) -> dict[str, str]:
        return {"APPLICATION_COMPILED_ENDPOINTS": compiled}

    async def test_a_policy_applies(self, client: httpx2.AsyncClient, callers: Callers) -> None:
        reader = callers.headers("alice", "events:read")
        event = {"title": "Play", "date": "2030-05-01", "time": "20:00:00"}
        assert (await client.get("/api/v1/events")).status_code == 401
        assert (await client.get("/api/v1/events", headers=reader)).status_code == 200
        assert (await client.post("/api/v1/events", json=event, headers=reader)).status_code == 403
        writer = callers.headers("alice", "events:write")
        assert (await client.post("/api/v1/events", json=event, headers=writer)).status_code == 201
        assert (await client.get("/api/v1/events", headers=writer)).status_code == 403

    async def test_a_refusal_does_not_depend_on_the_request_body(
        self, client: httpx2.AsyncClient, callers: Callers
    ) -> None:
        """Naive: 422 first, which shows a caller without rights the fields of the route."""
        assert (await client.post("/api/v1/events", json={"x": 1})).status_code == 401
        assert (await client.get("/api/v1/events/x", headers=callers.headers("eve"))).status_code == 403


async def test_openapi_names_the_scopes_of_each_operation(client: httpx2.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    assert schema["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    event = schema["paths"]["/api/v1/events/{event_id}"]
    assert event["get"]["security"] == [{"bearer": ["events:read"]}]
    assert event["patch"]["security"] == [{"bearer": ["events:write"]}]
    assert {"401", "403"} <= event["patch"]["responses"].keys()
    assert "security" not in schema["paths"]["/health/live"]["get"]
