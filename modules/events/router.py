"""Events over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from kernel import Conditional, ExpectedVersions, Unprocessable, for_caller, found, problems, requires, use
from kernel.database import Page
from kernel.ext.idempotency import idempotent
from kernel.fields import Id
from modules.events.repository import EventRepository
from modules.events.schemas import EventIn, EventOut, EventPatch, EventQuery
from modules.images.contract import Images

router = APIRouter()

EventId = Annotated[Id, Path()]
Seen = Annotated[EventRepository, for_caller(EventRepository, "events:read")]
Changed = Annotated[EventRepository, for_caller(EventRepository, "events:write")]
ImagesPort = Annotated[Images, use(Images)]


@router.get("")
async def list_events(query: Annotated[EventQuery, Query()], events: Seen) -> Page[EventOut]:
    """List events: a page of those that fulfil all filters given."""
    return await events.find(query)


@router.post("", status_code=201, dependencies=[requires("events:write"), idempotent], responses=problems(400, 409))
async def create_event(
    event: EventIn, events: Changed, images: ImagesPort, etag: Conditional, request: Request, response: Response
) -> EventOut:
    """Create an event."""
    await _must_exist(images, event.image_id)
    created = await events.add(event)
    response.headers["Location"] = f"{request.url.path}/{created.id}"
    etag.set(created.version)
    return created


@router.get("/{event_id}", responses=problems(404))
async def read_event(event_id: EventId, events: Seen, etag: Conditional) -> EventOut:
    """Read one event; 304 if the caller's version (If-None-Match) is the current one."""
    event = found(await events.get_by_id(event_id, into=EventOut), "event")
    etag.set(event.version)
    return event


@router.put("/{event_id}", responses=problems(404, 412))
async def replace_event(
    event_id: EventId,
    event: EventIn,
    events: Changed,
    images: ImagesPort,
    expected: ExpectedVersions,
    etag: Conditional,
) -> EventOut:
    """Replace all of an event; what is left out gets its default."""
    changed = await _change(event_id, event.model_dump(), events, images, expected)
    etag.set(changed.version)
    return changed


@router.patch("/{event_id}", responses=problems(404, 412))
async def patch_event(
    event_id: EventId,
    event: EventPatch,
    events: Changed,
    images: ImagesPort,
    expected: ExpectedVersions,
    etag: Conditional,
) -> EventOut:
    """Change some fields of an event."""
    changed = await _change(event_id, event.model_dump(exclude_unset=True), events, images, expected)
    etag.set(changed.version)
    return changed


@router.delete("/{event_id}", status_code=204, responses=problems(404, 412))
async def delete_event(event_id: EventId, expected: ExpectedVersions, events: Changed) -> None:
    """Delete an event."""
    found(await events.delete(event_id, expected_version=expected), "event")


async def _change(
    event_id: int, values: dict[str, Any], events: EventRepository, images: Images, expected: frozenset[int] | None
) -> EventOut:
    try:
        await _must_exist(images, values.get("image_id"))
    except Unprocessable:
        # Who may not change the event is told so, whatever image they name. What this writes is rolled back.
        found(await events.update(event_id, into=EventOut, expected_version=expected), "event")
        raise
    return found(await events.update(event_id, into=EventOut, expected_version=expected, **values), "event")


async def _must_exist(images: Images, image_id: int | None) -> None:
    if image_id is not None and await images.get(image_id) is None:
        raise Unprocessable("image_id", "no image has this id")
