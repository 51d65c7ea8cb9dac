"""The sweep: which files it deletes, and which it keeps."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from kernel.application import Application
from kernel.runtime import Kernel
from kernel.testing import settings_for
from modules.images.service import ForeignStorage, ImageService, SweepResult
from tests.modules.images.pictures import picture

pytestmark = pytest.mark.boots("images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


async def sweep(application: Application, *, delete: bool = True, older_than_seconds: float = 3600) -> SweepResult:
    context = application.kernel.contexts["images"]
    service: ImageService = context.state
    await service.record_owner()
    than = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    return await service.sweep(than, delete=delete)


def put(path: Path, *, hours_ago: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1234")
    os.utime(path, (time.time() - hours_ago * 3600,) * 2)
    return path


@pytest.mark.integration
async def test_bytes_without_an_image_are_deleted_and_others_stay(
    application: Application, client: httpx2.AsyncClient, folder: Path
) -> None:
    uploaded = await client.post("/api/v1/images", files={"file": ("a.png", picture(), "image/png")})
    lost = put(folder / "aa" / "bb" / "aabb", hours_ago=2)
    assert await sweep(application, older_than_seconds=-1) == SweepResult(3, 1, 4, 0)
    assert not lost.exists()
    assert (await client.get(f"/api/v1/images/{uploaded.json()['id']}/content")).status_code == 200
    assert (await client.get(f"/api/v1/images/{uploaded.json()['id']}/thumbnail")).status_code == 200


async def test_an_upload_in_progress_is_kept(application: Application, folder: Path) -> None:
    young = put(folder / "aa" / "bb" / "aabb", hours_ago=0.5)
    assert await sweep(application) == SweepResult(0, 0, 0, 0)
    assert young.exists()


async def test_without_delete_the_sweep_only_counts(application: Application, folder: Path) -> None:
    lost = put(folder / "aa" / "bb" / "aabb", hours_ago=2)
    assert await sweep(application, delete=False) == SweepResult(1, 1, 4, 0)
    assert lost.exists()


async def test_an_unfinished_file_is_deleted(application: Application, folder: Path) -> None:
    half = put(folder / "aa" / "bb" / "aabb#1", hours_ago=2)
    assert await sweep(application) == SweepResult(0, 0, 0, 1)
    assert not half.exists()


@pytest.mark.slow
async def test_a_large_store_is_read_in_parts(application: Application, folder: Path) -> None:
    for number in range(2100):
        put(folder / "aa" / "bb" / f"{number:04}", hours_ago=2)
    assert await sweep(application) == SweepResult(2100, 2100, 8400, 0)


async def test_a_storage_without_a_record_of_its_database_is_not_swept(application: Application, folder: Path) -> None:
    lost = put(folder / "aa" / "bb" / "aabb", hours_ago=2)
    with pytest.raises(ForeignStorage, match=r"has no record of its database.*kernel images own"):
        await service_of(application).sweep(datetime.now(UTC), delete=True)
    assert lost.exists()


@pytest.mark.integration
async def test_the_uploads_of_another_deployment_in_the_same_storage_are_not_swept(
    application: Application, client: httpx2.AsyncClient, folder: Path, tmp_path: Path
) -> None:
    async with other_deployment(folder, tmp_path) as other:
        await client.post("/api/v1/images", files={"file": ("a.png", picture(), "image/png")})
        uploads = files_below(folder)
        await service_of(application).record_owner()
        await other.record_owner()
        for service in (service_of(application), other):
            with pytest.raises(ForeignStorage, match=r"also has images of another database: .*IMAGES_STORAGE_URL"):
                await service.sweep(datetime.now(UTC) + timedelta(hours=1), delete=True)
        assert files_below(folder) >= uploads


async def test_a_copy_of_the_database_in_another_place_is_another_owner(
    application: Application, folder: Path, tmp_path: Path
) -> None:
    own = service_of(application)
    await own.record_owner()
    [(identity, _)] = await own.storage.list_owners()
    await own.storage.record_owner(identity, "staging:5432/copy (schema images)")
    with pytest.raises(ForeignStorage, match="staging:5432/copy"):
        await own.sweep(datetime.now(UTC), delete=True)


async def test_a_database_that_has_replaced_another_one_can_become_the_only_owner(
    application: Application, folder: Path, tmp_path: Path
) -> None:
    async with other_deployment(folder, tmp_path) as old:
        await old.record_owner()
    lost = put(folder / "aa" / "bb" / "aabb", hours_ago=2)
    own = service_of(application)
    [replaced] = await own.become_only_owner()
    assert "other" in replaced
    assert (await own.sweep(datetime.now(UTC) - timedelta(hours=1), delete=True)).orphans == 1
    assert not lost.exists()


async def test_the_readiness_check_records_the_database_once(application: Application, folder: Path) -> None:
    check = application.kernel.health_checks()["images.storage"]
    # A check waits briefly for a busy database and leaves the record to the next check.
    async with asyncio.timeout(10):
        while not files_below(folder / "owners"):
            await check()
    await check()
    assert len(files_below(folder / "owners")) == 1
    assert (await service_of(application).sweep(datetime.now(UTC), delete=True)).orphans == 0


def service_of(application: Application) -> ImageService:
    service: ImageService = application.kernel.contexts["images"].state
    return service


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@asynccontextmanager
async def other_deployment(folder: Path, tmp_path: Path) -> AsyncIterator[ImageService]:
    """Provide the images of another application, with a database of its own and the same storage."""
    variables = {
        "ENABLED_MODULES": "images",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'other'}",
        "IMAGES_STORAGE_URL": f"file://{folder}",
    }
    kernel = Kernel(settings_for(Path(__file__).parents[3], variables))
    async with kernel.running(serving=False):
        service: ImageService = kernel.contexts["images"].state
        yield service
