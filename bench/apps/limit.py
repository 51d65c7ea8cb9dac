"""The upper limit: raw ASGI, hand-written SQL on asyncpg's own pool, one statement per request, JSON from the rows.

It validates requests and answers 404, 412 and 422, but has none of the features that a team needs to maintain it.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import asyncpg
from pydantic import ValidationError
from pydantic_core import to_json
from sqlalchemy.engine import make_url
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from bench.apps.lists import SEARCH_VECTOR, decode_cursor, encode_cursor, expected_versions, search_terms
from bench.apps.pictures import keep_files, picture_of
from bench.apps.registry import places_from
from bench.apps.schemas import EventIn, EventPatch, EventQuery
from bench.apps.tables import utc_now

_EVENT = "id, title, description, date, time, location, image_id, is_draft, created_at, updated_at, version"
_IMAGE = "id, caption, content_type, width, height, size_bytes, created_at, updated_at, version"
_READ = f"SELECT {_EVENT} FROM events.events WHERE id = $1"
_ORDER = "ORDER BY date, time, id"
_PAGE = f"SELECT {_EVENT}, (SELECT count(*) FROM events.events) AS total FROM events.events {_ORDER} LIMIT $1 OFFSET $2"
_SEARCH = (
    f"SELECT {_EVENT}, (SELECT count(*) FROM events.events WHERE {SEARCH_VECTOR} @@ to_tsquery('simple', $3)) AS total "
    f"FROM events.events WHERE {SEARCH_VECTOR} @@ to_tsquery('simple', $3) {_ORDER} LIMIT $1 OFFSET $2"
)
_FIRST = f"SELECT {_EVENT} FROM events.events {_ORDER} LIMIT $1"
_AFTER = f"SELECT {_EVENT} FROM events.events WHERE (date, time, id) > ($2, $3, $4) {_ORDER} LIMIT $1"
_CREATE = (
    "INSERT INTO events.events "
    "(title, description, date, time, location, image_id, is_draft, created_at, updated_at, version) "
    f"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, 1) RETURNING {_EVENT}"
)
_DELETE = "DELETE FROM events.events WHERE id = $1 RETURNING id"
_IMAGE_EXISTS = "SELECT 1 FROM images.images WHERE id = $1"
_KEEP = (
    "INSERT INTO images.images (caption, content_type, width, height, size_bytes, sha256, content_key, thumbnail_key, "
    f"created_at, updated_at, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, 1) RETURNING {_IMAGE}"
)

Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, Headers, bytes]

_JSON = (b"content-type", b"application/json")
_ALIVE = b'{"status":"alive"}'
_EVENTS = "/api/v1/events"


class Limit:
    """The application."""

    def __init__(self, url: str, pool_size: int, max_overflow: int, images: Path) -> None:
        self._dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._sizes = {"min_size": pool_size, "max_size": pool_size + max_overflow}
        self._images = images
        self._pool: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        try:
            status, headers, body = await self._answer(scope, receive)
        except (ValidationError, ValueError) as error:
            status, headers, body = _plain(422, str(error))
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        method, path = scope["method"], scope["path"]
        if path == "/health/live":
            return 200, [_JSON], _ALIVE
        if path.startswith(_EVENTS):
            handlers: dict[str, Callable[..., Awaitable[Answer]]]
            if path == _EVENTS:
                handlers = {"GET": self._list, "POST": self._create}
                if method in handlers:
                    return await handlers[method](scope, receive)
            elif path[len(_EVENTS)] == "/":
                handlers = {"GET": self._read, "PATCH": self._patch, "DELETE": self._delete}
                if method in handlers:
                    return await handlers[method](int(path[len(_EVENTS) + 1 :]), scope, receive)
        if path == "/api/v1/images" and method == "POST":
            return await self._upload(scope, receive)
        return _plain(404, "Not Found")

    async def _read(self, event_id: int, _scope: Scope, _receive: Receive) -> Answer:
        row = await self._pool.fetchrow(_READ, event_id)
        return _plain(404, "Not Found") if row is None else _one(200, row)

    async def _list(self, scope: Scope, _receive: Receive) -> Answer:
        query = EventQuery.model_validate(dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)))
        wanted = query.limit + 1
        total = None
        if query.cursor:
            rows = await self._pool.fetch(_AFTER, wanted, *decode_cursor(query.cursor))
        elif query.cursor is not None:
            rows = await self._pool.fetch(_FIRST, wanted)
        else:
            terms = search_terms(query.q) if query.q else ""
            more = (terms,) if terms else ()
            rows = await self._pool.fetch(_SEARCH if terms else _PAGE, wanted, query.offset, *more)
            total = rows[0]["total"] if rows else 0
        items = [dict(row) for row in rows[: query.limit]]
        for item in items:
            item.pop("total", None)
        last = items[-1] if len(rows) > query.limit else None
        cursor = None if last is None else encode_cursor(last["date"], last["time"], last["id"])
        return 200, [_JSON], to_json({"items": items, "total": total, "next_cursor": cursor})

    async def _create(self, _scope: Scope, receive: Receive) -> Answer:
        event = EventIn.model_validate_json(await _body(receive))
        if not await self._image_exists(event.image_id):
            return _plain(422, "no image has this id")
        row = await self._pool.fetchrow(_CREATE, *event.model_dump().values(), utc_now())
        return _one(201, row, (b"location", f"{_EVENTS}/{row['id']}".encode()))

    async def _patch(self, event_id: int, scope: Scope, receive: Receive) -> Answer:
        changes = EventPatch.model_validate_json(await _body(receive)).model_dump(exclude_unset=True)
        if not await self._image_exists(changes.get("image_id")):
            return _plain(422, "no image has this id")
        if_match = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"if-match"), None)
        # The names come from the schema, not from the caller.
        assignments = "".join(f", {name} = ${number}" for number, name in enumerate(changes, 4))
        statement = (
            f"UPDATE events.events SET updated_at = $2, version = version + 1{assignments} "
            f"WHERE id = $1 AND ($3::int[] IS NULL OR version = ANY($3)) RETURNING {_EVENT}"
        )
        row = await self._pool.fetchrow(statement, event_id, utc_now(), expected_versions(if_match), *changes.values())
        if row is None:
            is_there = await self._pool.fetchrow(_READ, event_id) is not None
            return _plain(412, "Precondition Failed") if is_there else _plain(404, "Not Found")
        return _one(200, row)

    async def _delete(self, event_id: int, _scope: Scope, _receive: Receive) -> Answer:
        deleted = await self._pool.fetchval(_DELETE, event_id)
        return _plain(404, "Not Found") if deleted is None else (204, [], b"")

    async def _upload(self, scope: Scope, receive: Receive) -> Answer:
        async with Request(scope, receive).form(max_files=1, max_fields=1) as form:
            file, caption = form["file"], str(form.get("caption", ""))
            data = b"" if isinstance(file, str) else await file.read()
        picture = await picture_of(data)
        keys = await keep_files(self._images, data, picture.thumbnail)
        row = await self._pool.fetchrow(_KEEP, caption, *picture.columns.values(), *keys.values(), utc_now())
        return _one(201, row, (b"location", f"/api/v1/images/{row['id']}".encode()))

    async def _image_exists(self, image_id: int | None) -> bool:
        return image_id is None or await self._pool.fetchval(_IMAGE_EXISTS, image_id) is not None

    async def _live(self, receive: Receive, send: Send) -> None:
        async def keep(_connection: object) -> None:
            """Skip the reset of a connection: no statement of this application changes the connection's state."""

        await receive()
        self._pool = await asyncpg.create_pool(self._dsn, **self._sizes, reset=keep)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})


def _one(status: int, row: Any, *more: tuple[bytes, bytes]) -> Answer:
    return status, [_JSON, (b"etag", b'"%d"' % row["version"]), *more], to_json(dict(row))


def _plain(status: int, text: str) -> Answer:
    return status, [(b"content-type", b"text/plain")], text.encode()


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def application() -> Limit:
    """Return the application."""
    return Limit(*places_from(os.environ))
