"""The repository's own module images, served from a copy, with functions to upload pictures and inspect the storage."""

import io
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from PIL import Image

from tests.faults.served import Served

_REPOSITORY = Path(__file__).parents[2]


def repository(folder: Path, database_url: str, **variables: str) -> Served:
    """Provide the modules of the repository, before any process runs. Images are stored in `pictures` by default."""
    root = folder / "repository"
    for kind in ("modules", "migrations"):
        shutil.copytree(_REPOSITORY / kind, root / kind)
    common = {
        "ENVIRONMENT": "local", "LOG_LEVEL": "INFO", "LOG_FORMAT": "json", "SERVER_RELOAD": "false",
        "IMAGES_STORAGE_URL": str(root / "pictures"), "DATABASE_URL": database_url,
    }  # fmt: skip
    return Served(root, common | variables)


def picture(pixels: int) -> bytes:
    """Return a square PNG of noise, with about three bytes per pixel."""
    file = io.BytesIO()
    Image.frombytes("RGB", (pixels, pixels), random.randbytes(3 * pixels * pixels)).save(file, "PNG")
    return file.getvalue()


async def upload(client: httpx2.AsyncClient, here: Served, data: bytes) -> httpx2.Response:
    """Upload a picture as a browser would."""
    return await client.post(f"{here.url}/api/v1/images", files={"file": ("a.png", data, "image/png")})


async def kept(here: Served) -> tuple[set[int], int]:
    """Return the ids of all images, and how many of them have lost bytes."""
    found, lost = set(), 0
    async with httpx2.AsyncClient(base_url=here.url, timeout=30) as client:
        cursor: str | None = None
        while True:
            page = (await client.get("/api/v1/images", params={"cursor": cursor or ""})).raise_for_status().json()
            for one in page["items"]:
                found.add(one["id"])
                content = await client.get(f"/api/v1/images/{one['id']}/content")
                thumbnail = await client.get(f"/api/v1/images/{one['id']}/thumbnail")
                lost += (content.status_code, thumbnail.status_code) != (200, 200)
                lost += len(content.content) != one["size_bytes"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return found, lost


def files(folder: Path) -> list[Path]:
    """Return all files below a folder, including hidden ones of the store, without the record of its owner."""
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "owners"]


@contextmanager
def small_disk(folder: Path, mib: float) -> Iterator[Path]:
    """Mount a file system of this size, which only root may do."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(mib * 1024)}k", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file that takes all free space."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return path
