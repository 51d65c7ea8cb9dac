"""The HTTP routes of events."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from kernel import Conditional, ExpectedVersions, Unprocessable, for_caller, or_404, problems, requires, use
from kernel.ext.fields import Id
from kernel.ext.idempotency import idempotent
from kernel.ext.paging import Page
from modules.events.repository import EventRepository
from modules.events.schemas import EventIn, EventOut, EventPatch, EventQuery
from modules.images.contract import Images

router = APIRouter()

EventId = Annotated[Id, Path()]
ReadableEvents = Annotated[EventRepository, for_caller(EventRepository, "events:read")]
WritableEvents = Annotated[EventRepository, for_caller(EventRepository, "events:write")]
ImagesClient = Annotated[Images, use(Images)]


@router.get("")
async def list_events(query: Annotated[EventQuery, Query()], events: ReadableEvents) -> Page[EventOut]:
    """List the events that match all given filters."""
    return await events.find(query)


@router.post("", status_code=201, dependencies=[requires("events:write"), idempotent], responses=problems(400, 409))
async def create_event(
    event: EventIn,
    events: WritableEvents,
    images: ImagesClient,
    etag: Conditional,
    request: Request,
    response: Response,
) -> EventOut:
    """Create an event."""
    await _must_exist(images, event.image_id)
    created = await events.add(event)
    response.headers["Location"] = f"{request.url.path}/{created.id}"
    etag.set(created.version)
    return created


@router.get("/{event_id}", responses=problems(404))
async def read_event(event_id: EventId, events: ReadableEvents, etag: Conditional) -> EventOut:
    """Read one event. The answer is 304 if the version in If-None-Match is current."""
    event = or_404(await events.get_by_id(event_id, into=EventOut), "event")
    etag.set(event.version)
    return event


@router.put("/{event_id}", responses=problems(404, 412))
async def replace_event(
    event_id: EventId,
    event: EventIn,
    events: WritableEvents,
    images: ImagesClient,
    expected: ExpectedVersions,
    etag: Conditional,
) -> EventOut:
    """Replace an event. Omitted fields get their defaults."""
    changed = await _change(event_id, event.model_dump(), events, images, expected)
    etag.set(changed.version)
    return changed


@router.patch("/{event_id}", responses=problems(404, 412))
async def patch_event(
    event_id: EventId,
    event: EventPatch,
    events: WritableEvents,
    images: ImagesClient,
    expected: ExpectedVersions,
    etag: Conditional,
) -> EventOut:
    """Change the given fields of an event."""
    changed = await _change(event_id, event.model_dump(exclude_unset=True), events, images, expected)
    etag.set(changed.version)
    return changed


@router.delete("/{event_id}", status_code=204, responses=problems(404, 412))
async def delete_event(event_id: EventId, expected: ExpectedVersions, events: WritableEvents) -> None:
    """Delete an event."""
    or_404(await events.delete(event_id, expected_version=expected), "event")


async def _change(
    event_id: int, values: dict[str, Any], events: EventRepository, images: Images, expected: frozenset[int] | None
) -> EventOut:
    try:
        await _must_exist(images, values.get("image_id"))
    except Unprocessable:
        # A missing event or permission is reported first, even if the image is missing, too. The raise rolls back.
        or_404(await events.update(event_id, into=EventOut, expected_version=expected), "event")
        raise
    return or_404(await events.update(event_id, into=EventOut, expected_version=expected, **values), "event")


async def _must_exist(images: Images, image_id: int | None) -> None:
    if image_id is not None and await images.get(image_id) is None:
        raise Unprocessable("image_id", "no image has this id")
