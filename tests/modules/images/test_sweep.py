"""The sweep: what it takes for left behind, and what it leaves alone."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from kernel.app import Application
from modules.images.service import ImageService, Swept
from tests.modules.images.pictures import picture

pytestmark = pytest.mark.boots("images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


async def sweep(application: Application, *, delete: bool = True, older_than_seconds: float = 3600) -> Swept:
    context = application.kernel.contexts["images"]
    service: ImageService = context.state
    than = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    return await service.sweep(context.database, than, delete=delete)


def put(path: Path, *, hours_ago: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1234")
    os.utime(path, (time.time() - hours_ago * 3600,) * 2)
    return path


async def test_bytes_without_an_image_go_and_those_with_one_stay(
    application: Application, client: httpx2.AsyncClient, folder: Path
) -> None:
    uploaded = await client.post("/api/v1/images", files={"file": ("a.png", picture(), "image/png")})
    lost = put(folder / "aa" / "bb" / "aabb", hours_ago=2)
    assert await sweep(application, older_than_seconds=-1) == Swept(3, 1, 4, 0)
    assert not lost.exists()
    assert (await client.get(f"/api/v1/images/{uploaded.json()['id']}/content")).status_code == 200
    assert (await client.get(f"/api/v1/images/{uploaded.json()['id']}/thumbnail")).status_code == 200


async def test_an_upload_under_way_is_left_alone(application: Application, folder: Path) -> None:
    young = put(folder / "aa" / "bb" / "aabb", hours_ago=0.5)
    assert await sweep(application) == Swept(0, 0, 0, 0)
    assert young.exists()


async def test_without_delete_it_only_counts(application: Application, folder: Path) -> None:
    lost = put(folder / "aa" / "bb" / "aabb", hours_ago=2)
    assert await sweep(application, delete=False) == Swept(1, 1, 4, 0)
    assert lost.exists()


async def test_a_file_that_was_never_finished_goes(application: Application, folder: Path) -> None:
    half = put(folder / "aa" / "bb" / "aabb#1", hours_ago=2)
    assert await sweep(application) == Swept(0, 0, 0, 1)
    assert not half.exists()


async def test_a_large_store_is_gone_through_in_parts(application: Application, folder: Path) -> None:
    for number in range(2100):
        put(folder / "aa" / "bb" / f"{number:04}", hours_ago=2)
    assert await sweep(application) == Swept(2100, 2100, 8400, 0)
