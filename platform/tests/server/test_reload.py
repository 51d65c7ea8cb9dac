"""Auto-reload: requests get a response after a change that breaks the start, until another change repairs it."""

from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.faults.harness import until, until_serving
from tests.faults.served import project

pytestmark = pytest.mark.slow


async def test_after_a_change_that_breaks_the_start_requests_get_503_until_it_is_repaired(tmp_path: Path) -> None:
    """Naive: uvicorn's own reloader holds the socket, so that every request waits for the next change."""
    here = project(tmp_path, f"sqlite:///{tmp_path / 'data'}", SERVER_RELOAD="true")
    router = here.root / "modules" / "work" / "router.py"
    right = router.read_text()
    with here.process() as process:
        await until_serving(here.port)
        async with httpx2.AsyncClient(base_url=here.url, timeout=20) as client:

            async def is_answered(status: int) -> bool:
                with suppress(httpx2.NetworkError, httpx2.RemoteProtocolError):  # the previous process ended
                    return (await client.get("/api/v1/work")).status_code == status
                return False

            router.write_text("raise RuntimeError('half written')\n")
            await until(lambda: is_answered(503), 20)
            answer = await client.get("/any/path")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "1"
            router.write_text(right)
            await until(lambda: is_answered(200), 20)
        process.terminate()  # If it were killed, it would leave the process that it watches.
        assert process.wait(20) == 0
    assert "half written" in here.said
