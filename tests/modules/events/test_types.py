"""mypy reports mistakes in a module's code that would otherwise appear at the first request."""

import re
from pathlib import Path

import pytest
from mypy import api

pytestmark = pytest.mark.slow

_CODE = """
import datetime as dt
from typing import Annotated

from kernel import ModuleContext, for_caller, from_module, use, with_session
from kernel.database import BaseRepository
from modules.events.models import Event
from modules.events.repository import EventRepository
from modules.events.schemas import EventOut
from modules.health.repository import IncidentRepository
from modules.images.contract import Images
from modules.images.repository import ImageRepository
from modules.images.service import ImageService


async def writes(events: EventRepository, plain: BaseRepository[Event, int], some: dict[str, str]) -> None:
    await events.update(1, title="Gig", image_id=None, date=dt.date(2030, 1, 1))
    await events.update(1, into=EventOut, expected_version=[1, 2], version=Event.version + 1)
    await events.create(into=EventOut, title="Gig", owner="ada")
    await plain.update(1, title="Gig")
    await events.update(1, stauts="new")  # error: stauts
    await events.update(1, into=EventOut, title=7)  # error: title
    await events.create(into=EventOut, titel="Gig")  # error: titel
    await plain.create(titel="Gig")  # error: titel


def asks(
    images: Images = use(Images),
    events: EventRepository = for_caller(EventRepository, "events:read"),
    incidents: IncidentRepository = with_session(IncidentRepository),
    service: ImageService = from_module(ImageService),
    wrong_contract: ImageService = use(Images),  # error: "Images"
    wrong_repository: ImageRepository = for_caller(EventRepository),  # error: "EventRepository"
    wrong_thing: ImageRepository = from_module(ImageService),  # error: "ImageService"
) -> None: ...


def state(context: ModuleContext) -> ImageService:
    context.state.sweep()  # error: "sweep"
    return context.get(ImageService)


ImagesClient = Annotated[Images, use(Images)]
"""


@pytest.mark.timeout(600)  # Without mypy's cache it also checks SQLAlchemy and FastAPI.
def test_the_type_checker_reports_mistakes_with_columns_dependencies_and_state(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    path = tmp_path / "mistakes.py"
    path.write_text(_CODE)
    said, errors, _ = api.run(["--config-file", str(root / "pyproject.toml"), str(path)])
    assert errors == ""
    found = {int(line): text for line, text in re.findall(r"mistakes\.py:(\d+): error: (.*)", said)}
    expected = {
        number: line.rpartition("# error: ")[2]
        for number, line in enumerate(_CODE.splitlines(), 1)
        if "# error: " in line
    }
    assert found.keys() == expected.keys(), said
    for number, name in expected.items():
        assert name in found[number] or found[number].startswith("No overload variant")
