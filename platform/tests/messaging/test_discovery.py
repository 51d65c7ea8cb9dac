"""Discovery names messages whose stored versions cannot be read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.modules.discovery import DiscoveryError, discover
from tests.core.project import MANIFEST, imported_alone, write_project

RAISED = """
from kernel.ext.messaging import Message, upcast

class Sold(Message, version=3):
    thing_id: int

@upcast(Sold, from_version=2)
def _as_it_was(old):
    return old
"""
GAP = "Sold is version 3, but stored messages of version 1 cannot be read: write `@upcast(Sold, from_version=1)` beside"


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with imported_alone():
        yield


def test_unreadable_stored_versions_are_reported_for_the_publisher(tmp_path: Path) -> None:
    write_project(tmp_path, {"shop/module.py": MANIFEST, "shop/contract.py": RAISED})
    with pytest.raises(DiscoveryError) as caught:
        discover(tmp_path)
    assert GAP in str(caught.value)


def test_unreadable_stored_versions_are_reported_for_the_subscribers(tmp_path: Path) -> None:
    handlers = (
        "from kernel.ext.messaging import subscribe\nfrom modules.shop.contract import Sold\n\n"
        "@subscribe(Sold)\nasync def note(message: Sold) -> None: ...\n"
    )
    files = {"shop/module.py": MANIFEST, "shop/contract.py": RAISED, "post/handlers.py": handlers}
    files["post/module.py"] = MANIFEST.replace('"team"', '"team", depends_on={"shop"}')
    write_project(tmp_path, files)
    with pytest.raises(DiscoveryError) as caught:
        discover(tmp_path, {"post"}, {"shop"})
    assert GAP in str(caught.value)


def test_a_message_that_reads_all_its_versions_is_accepted(tmp_path: Path) -> None:
    complete = RAISED + "\n@upcast(Sold, from_version=1)\ndef _too(old):\n    return old\n"
    assert discover(write_project(tmp_path, {"shop/module.py": MANIFEST, "shop/contract.py": complete}))
