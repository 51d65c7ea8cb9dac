"""FastAPI with the SQLAlchemy ORM, tuned by hand, without other layers.

One session for each request, which commits before the answer; no pre-ping, no middleware, no refresh after writes;
declared response models; every function is `async def`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, HTTPException, Path, Query, Request, Response
from fastapi import UploadFile as Upload
from sqlalchemy import delete, event, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from bench.apps.lists import count_of, encode_cursor, expected_versions, page_of
from bench.apps.pictures import keep_files, picture_of
from bench.apps.registry import places_from
from bench.apps.schemas import Caption, EventIn, EventOut, EventPage, EventPatch, EventQuery, Id, ImageOut, Status
from bench.apps.tables import Event, Image

router = APIRouter()

# The session holds no entity that a statement could make stale.
_NOTHING_LOADED = {"synchronize_session": False}


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions() as session:
        yield session
        if request.method != "GET":
            await session.commit()


Session = Annotated[AsyncSession, Depends(_session, scope="function")]
EventId = Annotated[Id, Path()]
IfMatch = Annotated[str | None, Header()]


@router.get("/health/live")
async def live() -> Status:
    """Report that the process answers."""
    return Status(status="alive")


@router.get("/api/v1/events")
async def list_events(query: Annotated[EventQuery, Query()], session: Session) -> EventPage:
    """Return a page: one query for the total, one for the rows."""
    total = await session.scalar(count_of(query)) if query.cursor is None else None
    rows = (await session.scalars(page_of(query))).all()
    shown = [EventOut.model_validate(row) for row in rows[: query.limit]]
    has_more = len(rows) > query.limit
    cursor = encode_cursor(shown[-1].date, shown[-1].time, shown[-1].id) if has_more else None
    return EventPage(items=shown, total=total, next_cursor=cursor)


@router.get("/api/v1/events/{event_id}")
async def read_event(event_id: EventId, session: Session, response: Response) -> EventOut:
    """Return one event."""
    found = await session.get(Event, event_id)
    if found is None:
        raise HTTPException(404)
    response.headers["ETag"] = f'"{found.version}"'
    return EventOut.model_validate(found)


@router.post("/api/v1/events", status_code=201)
async def create_event(values: EventIn, session: Session, response: Response) -> EventOut:
    """Create an event."""
    await _must_exist(session, values.image_id)
    created = Event(**values.model_dump())
    session.add(created)
    await session.flush()
    response.headers["Location"] = f"/api/v1/events/{created.id}"
    response.headers["ETag"] = f'"{created.version}"'
    return EventOut.model_validate(created)


@router.patch("/api/v1/events/{event_id}")
async def patch_event(
    event_id: EventId, values: EventPatch, session: Session, response: Response, if_match: IfMatch = None
) -> EventOut:
    """Change an event, in one statement."""
    await _must_exist(session, values.image_id)
    changes: dict[str, Any] = values.model_dump(exclude_unset=True)
    statement = update(Event).where(Event.id == event_id).values(version=Event.version + 1, **changes)
    if (versions := expected_versions(if_match)) is not None:
        statement = statement.where(Event.version.in_(versions))
    changed = await session.scalar(statement.returning(Event), execution_options=_NOTHING_LOADED)
    if changed is None:
        raise HTTPException(412 if await session.scalar(select(exists().where(Event.id == event_id))) else 404)
    response.headers["ETag"] = f'"{changed.version}"'
    return EventOut.model_validate(changed)


@router.delete("/api/v1/events/{event_id}", status_code=204)
async def delete_event(event_id: EventId, session: Session) -> None:
    """Delete an event, in one statement."""
    statement = delete(Event).where(Event.id == event_id).returning(Event.id)
    if await session.scalar(statement, execution_options=_NOTHING_LOADED) is None:
        raise HTTPException(404)


@router.post("/api/v1/images", status_code=201)
async def upload_image(
    file: Annotated[Upload, File()],
    session: Session,
    request: Request,
    response: Response,
    caption: Annotated[Caption, Form()] = "",
) -> ImageOut:
    """Store a picture: first the bytes, then the row."""
    data = await file.read()
    picture = await picture_of(data)
    keys = await keep_files(request.app.state.images, data, picture.thumbnail)
    created = Image(caption=caption, **picture.columns, **keys)
    session.add(created)
    await session.flush()
    response.headers["Location"] = f"/api/v1/images/{created.id}"
    response.headers["ETag"] = f'"{created.version}"'
    return ImageOut.model_validate(created)


async def _must_exist(session: AsyncSession, image_id: int | None) -> None:
    if image_id is not None and await session.scalar(select(Image.id).where(Image.id == image_id)) is None:
        raise HTTPException(422, "no image has this id")


def application() -> FastAPI:
    """Return the application, on the PostgreSQL or SQLite database that DATABASE_URL names."""
    url, pool_size, max_overflow, images = places_from(os.environ)
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=max_overflow)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _use_wal)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    app.state.images = images
    app.include_router(router)
    return app


def _use_wal(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()
