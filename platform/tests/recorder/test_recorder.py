"""Responses are recorded before compression, whichever extension is configured first."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from fastapi import Request

from kernel.application import create_app
from kernel.ext.compression.extension import CompressionExtension
from kernel.ext.recorder import RecordedResponse, Replay, ResponseRecorder
from kernel.ext.recorder.extension import Recorder
from kernel.extension import Extension
from kernel.testing import settings_for
from kernel.testing.booting import talking_to
from tests.core.project import write_project

LARGE = "x" * 5000


async def answers(root: Path, extensions: Sequence[type[Extension]], max_bytes: int = 10_000) -> list[RecordedResponse]:
    """Request a large response with gzip, its replay, and one without a recorder; return the recorded responses."""
    app = create_app(settings_for(write_project(root, {}), {"AUTH_ENABLED": "false"}), (), tuple(extensions))
    saved: list[RecordedResponse | None] = []

    @app.get("/made")
    async def made(request: Request) -> str:
        async def save(response: RecordedResponse | None) -> None:
            saved.append(response)

        ResponseRecorder(request.scope, save, max_bytes)
        return LARGE

    @app.get("/again")
    async def again() -> str:
        assert saved[0] is not None
        raise Replay(saved[0].with_headers((b"x-again", b"yes")))

    @app.get("/plain")
    async def plain() -> str:
        return LARGE

    async with app.router.lifespan_context(app), talking_to(app) as client:
        first = await client.get("/made", headers={"accept-encoding": "gzip"})
        assert (first.status_code, first.json()) == (200, LARGE)
        assert (first.headers.get("content-encoding") == "gzip") == (CompressionExtension in extensions)
        assert (await client.get("/plain")).json() == LARGE
        if saved != [None]:
            second = await client.get("/again", headers={"accept-encoding": "identity"})
            assert (second.json(), second.headers["x-again"]) == (LARGE, "yes")
            assert "content-encoding" not in second.headers
            assert len(second.headers.get_list("x-request-id")) == 1
    assert len(saved) == 1
    return [one for one in saved if one is not None]


@pytest.mark.parametrize(
    "extensions", [(Recorder,), (Recorder, CompressionExtension), (CompressionExtension, Recorder)]
)
async def test_a_response_is_recorded_uncompressed_and_without_headers_of_the_outer_layers(
    tmp_path: Path, extensions: Sequence[type[Extension]]
) -> None:
    [recorded] = await answers(tmp_path, extensions)
    assert recorded.body.decode() == f'"{LARGE}"'
    assert {name for name, _ in recorded.headers} == {b"content-length", b"content-type"}


async def test_a_response_that_is_too_large_is_not_recorded(tmp_path: Path) -> None:
    assert await answers(tmp_path, (Recorder,), max_bytes=100) == []
