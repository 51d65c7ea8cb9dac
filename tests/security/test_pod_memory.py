"""The memory of a pod in the manifests is sufficient for the most expensive pictures."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from kernel.testing import settings_for
from modules.images.settings import ImagesSettings
from tests.modules.images.pictures import flat_png, flat_webp, picture
from tests.security.forms import upload
from tests.security.serving import Served, served

pytestmark = pytest.mark.slow


@pytest.mark.alone
@pytest.mark.parametrize(
    ("make", "status"),
    [(lambda: flat_png(7000, 8, 3, transparent=True), 201), (lambda: flat_webp(7000), 422)],
    ids=["PNG", "WebP"],
)
def test_a_pod_has_memory_for_the_most_expensive_pictures(
    root: Path, tmp_path: Path, make: Callable[[], bytes], status: int
) -> None:
    """The most expensive picture is decoded while the allowed number of the largest uploads wait in memory."""
    manifest = yaml.safe_load((root / "deploy" / "kubernetes" / "deployment.yaml").read_text())
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    settings = settings_for(root, {"ENVIRONMENT": "local"}).modules["images"]
    assert isinstance(settings, ImagesSettings)
    small = picture()
    large = small + os.urandom(settings.max_upload_bytes - len(small))
    with served(root, tmp_path, f"sqlite:///{tmp_path / 'data'}") as server:
        statuses, most = uploads_and_memory(server, make(), large, settings.max_uploads_in_memory + 4)
    assert statuses == [status] + [201] * (settings.max_uploads_in_memory + 4)
    assert most < limit * 0.95


def uploads_and_memory(server: Served, first: bytes, others: bytes, count: int) -> tuple[list[int], int]:
    """Send one upload and `count` others beside it; return the responses and the most memory used."""
    over, memory = threading.Event(), [0]

    def look() -> None:
        while not over.wait(0.01):
            memory.append(server.memory_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    with ThreadPoolExecutor(count + 1) as pool:
        sent = [pool.submit(server.send, upload("a", data), seconds=120) for data in (first, *[others] * count)]
        statuses = [one.result().statuses[0] for one in sent]
    over.set()
    looking.join()
    return statuses, max(memory)
