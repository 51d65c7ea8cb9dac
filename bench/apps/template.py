"""The design of most templates, in which each habit costs a round trip or a layer.

A `BaseHTTPMiddleware` for the request id and a timing log, CORS, pre-ping, a session dependency of the default scope,
repositories that return entities, a SELECT before each change, commit and refresh in the handler.
"""

import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, HTTPException, Path, Query, Request, Response
from fastapi import UploadFile as Upload
from fastapi.middleware.cors import CORSMiddleware
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware

from bench.apps.lists import count_of, encode_cursor, expected_versions, page_of
from bench.apps.pictures import keep_files, picture_of
from bench.apps.registry import places_from
from bench.apps.schemas import Caption, EventIn, EventOut, EventPage, EventPatch, EventQuery, Id, ImageOut, Status
from bench.apps.tables import Event, Image

_log = logging.getLogger("template.requests")
router = APIRouter()


class RequestLog(BaseHTTPMiddleware):
    """Adds an id to each request and logs its duration."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
        started_at = time.perf_counter()
        response = await call_next(request)
        duration_ms = (time.perf_counter() - started_at) * 1000
        _log.info(
            "%s %s %s %.2f ms id=%s", request.method, request.url.path, response.status_code, duration_ms, request_id
        )
        response.headers["X-Request-ID"] = request_id
        return response


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Provide the session of the request."""
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


class EventRepository:
    """The table of events, as entities."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, event_id: int) -> Event | None:
        """Return one event."""
        return (await self.session.execute(select(Event).where(Event.id == event_id))).scalar_one_or_none()

    async def find(self, query: EventQuery) -> tuple[Sequence[Event], int | None]:
        """Return a page and the total."""
        total = None if query.cursor is not None else (await self.session.execute(count_of(query))).scalar_one()
        return (await self.session.execute(page_of(query))).scalars().all(), total

    async def save(self, entity: Event) -> Event:
        """Commit the event and read it again."""
        self.session.add(entity)
        await self.session.commit()
        await self.session.refresh(entity)
        return entity

    async def delete(self, entity: Event) -> None:
        """Delete the event and commit."""
        await self.session.delete(entity)
        await self.session.commit()


async def get_repository(session: Session) -> EventRepository:
    """Return the repository on the request's session."""
    return EventRepository(session)


Events = Annotated[EventRepository, Depends(get_repository)]
EventId = Annotated[Id, Path()]


@router.get("/health/live", response_model=Status)
async def live() -> Any:
    """Report that the process answers."""
    return {"status": "alive"}


@router.get("/api/v1/events", response_model=EventPage)
async def list_events(query: Annotated[EventQuery, Query()], events: Events) -> Any:
    """Return a page of events."""
    rows, total = await events.find(query)
    shown = [EventOut.model_validate(row) for row in rows[: query.limit]]
    has_more = len(rows) > query.limit
    cursor = encode_cursor(shown[-1].date, shown[-1].time, shown[-1].id) if has_more else None
    return EventPage(items=shown, total=total, next_cursor=cursor)


@router.get("/api/v1/events/{event_id}", response_model=EventOut)
async def read_event(event_id: EventId, events: Events, response: Response) -> Any:
    """Return one event."""
    found = await _existing(events, event_id)
    response.headers["ETag"] = f'"{found.version}"'
    return EventOut.model_validate(found)


@router.post("/api/v1/events", response_model=EventOut, status_code=201)
async def create_event(values: EventIn, events: Events, response: Response) -> Any:
    """Create an event."""
    await _must_exist(events.session, values.image_id)
    created = await events.save(Event(**values.model_dump()))
    response.headers["Location"] = f"/api/v1/events/{created.id}"
    response.headers["ETag"] = f'"{created.version}"'
    return EventOut.model_validate(created)


@router.patch("/api/v1/events/{event_id}", response_model=EventOut)
async def patch_event(
    event_id: EventId,
    values: EventPatch,
    events: Events,
    response: Response,
    if_match: Annotated[str | None, Header()] = None,
) -> Any:
    """Change an event: read it, compare its version, set its fields, save it."""
    await _must_exist(events.session, values.image_id)
    entity = await _existing(events, event_id)
    versions = expected_versions(if_match)
    if versions is not None and entity.version not in versions:
        raise HTTPException(412)
    for name, value in values.model_dump(exclude_unset=True).items():
        setattr(entity, name, value)
    entity.version += 1
    changed = await events.save(entity)
    response.headers["ETag"] = f'"{changed.version}"'
    return EventOut.model_validate(changed)


@router.delete("/api/v1/events/{event_id}", status_code=204)
async def delete_event(event_id: EventId, events: Events) -> None:
    """Delete an event."""
    await events.delete(await _existing(events, event_id))


@router.post("/api/v1/images", response_model=ImageOut, status_code=201)
async def upload_image(
    file: Annotated[Upload, File()],
    session: Session,
    request: Request,
    response: Response,
    caption: Annotated[Caption, Form()] = "",
) -> Any:
    """Store a picture."""
    data = await file.read()
    picture = await picture_of(data)
    keys = await keep_files(request.app.state.images, data, picture.thumbnail)
    created = Image(caption=caption, **picture.columns, **keys)
    session.add(created)
    await session.commit()
    await session.refresh(created)
    response.headers["Location"] = f"/api/v1/images/{created.id}"
    response.headers["ETag"] = f'"{created.version}"'
    return ImageOut.model_validate(created)


async def _existing(events: EventRepository, event_id: int) -> Event:
    found = await events.get(event_id)
    if found is None:
        raise HTTPException(404)
    return found


async def _must_exist(session: AsyncSession, image_id: int | None) -> None:
    if image_id is None:
        return
    if (await session.execute(select(Image).where(Image.id == image_id))).scalar_one_or_none() is None:
        raise HTTPException(422, "no image has this id")


def application() -> FastAPI:
    """Return the application."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    url, pool_size, max_overflow, images = places_from(os.environ)
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=max_overflow, pool_pre_ping=True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(title="Template", lifespan=lifespan)
    app.state.sessions = async_sessionmaker(engine)
    app.state.images = images
    app.add_middleware(RequestLog)
    app.add_middleware(CORSMiddleware, allow_origins=["https://example.com"], allow_methods=["*"], allow_headers=["*"])
    app.include_router(router)
    return app
