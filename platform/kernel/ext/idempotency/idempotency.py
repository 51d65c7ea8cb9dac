"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header): who repeats a request gets its first answer again.

The key's row is written with what the request writes, in the same transaction and as the last of it, so that the key is
there if and only if the effect is. The row comes last, so that a handler may ask other modules before it writes. Of two
who come at once through two processes both do the work, and only one may keep it; in one process the second is refused
at once. What failed has changed nothing, is not kept, and may be tried again with its key.

The answer is added after the commit and before it is sent. A process that ends in between leaves a key without an
answer: who repeats the request is told that it has been carried out, and it is not carried out again.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, cast
from weakref import WeakValueDictionary

import structlog
from fastapi import APIRouter, Depends, Header, Request
from sqlalchemy import (
    BindParameter,
    Boolean,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.datastructures import UploadFile

from kernel.auth.policy import Requires, calls_of, dependant_of, name_of
from kernel.auth.principal import principal_of
from kernel.database import Database, DatabaseUnavailable, UtcDateTime, after_commit, utc_now
from kernel.database.errors import FAILURES
from kernel.database.pool import before_commit
from kernel.database.session import DatabaseSession
from kernel.modules.manifest import module_context
from kernel.web.problems import BadRequest, Conflict, Unprocessable
from kernel.web.recorder import Answer, Keeper, Replay
from kernel.web.routes import routes_of
from kernel.web.session import Session

_log = structlog.get_logger("kernel.idempotency")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Printable and without quotes; the draft writes a key in quotes, most clients without.
_PATTERN = r'^("[!#-~]{1,200}"|[!#-~]{1,200})$'
_KEY = re.compile(_PATTERN)
# A larger answer is not kept: who repeats the request is told that it has been carried out.
_MAX_ANSWER_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024
# How often expired keys are looked for, and how many are deleted at once.
_SWEEP_PAUSE = timedelta(seconds=10)
_SWEPT = 500
_RETRY_AFTER = {"Retry-After": "1"}
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class IdempotencyTable:
    """The keys of a module's requests, and what was answered.

    `class Idempotency(IdempotencyTable, Base): __tablename__ = "idempotency"` in the models.py of whose routes have
    `idempotent`.
    """

    # A hash of module, caller and key.
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    # A hash of what was asked.
    fingerprint: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    # The answer; None until it is there. Headers are JSON, a list of pairs.
    status: Mapped[int | None]
    headers: Mapped[str | None] = mapped_column(Text)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


class Keys:
    """The idempotency keys of one module, in its own database."""

    def __init__(self, module: str, database: Database, table: Table, keep_seconds: float) -> None:
        self.module = module
        self.database = database
        self._keeps = timedelta(seconds=keep_seconds)
        # In work in this process; weak, so that one whose request was broken off goes with it.
        self._in_work: WeakValueDictionary[str, _Claim] = WeakValueDictionary()
        self._swept_at: datetime | None = None
        c = table.c
        of_id, expired_at = c.id == bindparam("of_id"), bindparam("expired_at", type_=UtcDateTime)
        self._find = select(c.fingerprint, c.status, c.headers, c.body).where(of_id, c.created_at >= expired_at)
        self._answer = update(table).where(of_id).returning(c.id)
        expired = select(c.id).where(c.created_at < expired_at).order_by(c.created_at).limit(_SWEPT)
        self._sweep = delete(table).where(c.id.in_(expired)).returning(c.id)
        self._insert = _insertion(table, expired_at, on_postgresql=database.writer.dialect.name == "postgresql")

    async def take(self, request: Request, session: AsyncSession, key: str) -> None:
        """Have the session write the key, and the answer kept. Raises Replay, Conflict and Unprocessable."""
        principal = await principal_of(request)
        caller = "" if principal is None else principal.key
        id_ = hashlib.sha256("\0".join((self.module, caller, key)).encode()).hexdigest()
        if id_ in self._in_work:
            raise _in_work()
        claim = self._in_work[id_] = _Claim(self, id_, session)
        Keeper(request.scope, claim.end, _MAX_ANSWER_BYTES)  # any answer goes through it, and ends the claim
        claim.fingerprint = await _fingerprint(request)
        async with self.database.read() as reader:
            await self.look(reader, claim)
        before_commit(session, claim.write)
        after_commit(session, claim.note)

    async def look(self, session: DatabaseSession, claim: "_Claim") -> None:
        """Raises Replay, Conflict or Unprocessable if the key is there."""
        rows = await session.rows(self._find, {"of_id": claim.id, "expired_at": utc_now() - self._keeps})
        if not rows:
            return
        fingerprint, status, headers, body = rows[0]
        if fingerprint != claim.fingerprint:
            problem = "the key was sent before, with another request: use a new one for each"
            raise Unprocessable("idempotency-key", problem, code="key_reused", part="header")
        if status is None:
            detail = (
                "The request with this key has been carried out, but what was answered is not there (yet). "
                "Look for what it made before you send it with another key."
            )
            raise Conflict(detail, headers=_RETRY_AFTER)
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(headers)]
        raise Replay(Answer(status, pairs, body).adding((b"idempotency-replayed", b"true")))

    async def write(self, claim: "_Claim") -> None:
        """The key's row, as the last of its transaction. Raises as `look` if somebody else was faster."""
        now = utc_now()
        values = {"of_id": claim.id, "of_fingerprint": claim.fingerprint, "of_created_at": now}
        if not await claim.session.rows(self._insert, {**values, "expired_at": now - self._keeps}):
            await self.look(claim.session, claim)
            raise _in_work()

    async def answer(self, claim: "_Claim", answer: Answer) -> None:
        """Add the answer to the row, and now and then delete what has expired. Failing loses the answer alone."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        values = {"status": answer.status, "headers": json.dumps(pairs), "body": answer.body}
        try:
            await self.database.run(self._answer, {"of_id": claim.id, **values})
            now = utc_now()
            if self._swept_at is None or now - self._swept_at > _SWEEP_PAUSE:
                self._swept_at = now
                await self.database.run(self._sweep, {"expired_at": now - self._keeps})
        except (DatabaseUnavailable, *FAILURES) as error:
            _log.warning("the answer to an idempotency key is not kept", module=self.module, cause=repr(error))

    def forget(self, claim: "_Claim") -> None:
        """It is not in work any more."""
        self._in_work.pop(claim.id, None)


class _Claim:
    """One request with a key, from when it is taken until it is answered."""

    def __init__(self, keys: Keys, id_: str, session: AsyncSession) -> None:
        self._keys = keys
        self.id = id_
        self.session = cast(DatabaseSession, session)  # before_commit refuses others
        self.fingerprint = ""
        self._is_committed = False

    async def write(self) -> None:
        await self._keys.write(self)

    async def note(self) -> None:
        self._is_committed = True

    async def end(self, answer: Answer | None) -> None:
        try:
            if self._is_committed and answer is not None:
                await self._keys.answer(self, answer)
        finally:
            self._keys.forget(self)


def _insertion(table: Table, expired_at: BindParameter[datetime], *, on_postgresql: bool) -> Any:
    """The row, unless there is one that has not expired, or (on PostgreSQL) somebody else is about to commit one.

    Without that lock, which ends with the transaction, it would wait for the other.
    """
    row = {name: bindparam(f"of_{name}", type_=table.c[name].type) for name in ("id", "fingerprint", "created_at")}
    insertion: Any = (postgresql if on_postgresql else sqlite).insert(table)
    if on_postgresql:
        is_free = func.pg_try_advisory_xact_lock(func.hashtextextended(row["id"], literal_column("0")), type_=Boolean)
        insertion = insertion.from_select([*row], select(*row.values()).where(is_free), include_defaults=False)
    else:
        insertion = insertion.values(row)
    return insertion.on_conflict_do_update(
        index_elements=[table.c.id],
        set_={column.name: insertion.excluded[column.name] for column in table.c if column.name != "id"},
        where=table.c.created_at < expired_at,
    ).returning(table.c.id)


async def _fingerprint(request: Request) -> str:
    """What is asked, as one number. Of a form its parts: a client that repeats it chooses another boundary."""
    found = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\0".encode())
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _FORMS:
        found.update(await request.body())
        return found.hexdigest()
    for name, value in (await request.form()).multi_items():
        if not isinstance(value, UploadFile):
            found.update(json.dumps([name, value]).encode())
            continue
        found.update(json.dumps([name, value.filename, value.content_type]).encode())
        content = hashlib.sha256()
        while chunk := await value.read(_CHUNK_BYTES):
            content.update(chunk)
        await value.seek(0)
        found.update(content.digest())
    return found.hexdigest()


def _in_work() -> Conflict:
    return Conflict("A request with this key is in work. Repeat it when that has ended.", headers=_RETRY_AFTER)


async def _idempotent(
    request: Request,
    session: Session,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="A name of your choice for this request, new for each (a UUID). Whoever repeats the request "
            "with its key gets the first answer again, and nothing happens twice.",
            json_schema_extra={"pattern": _PATTERN},
        ),
    ] = None,
) -> None:
    if key is None or request.method in _SAFE_METHODS:
        return
    if len(request.headers.getlist("idempotency-key")) > 1 or not _KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key must be one name of 1 to 200 printable characters without spaces.")
    keys = module_context(request).get(Keys)
    await keys.take(request, session, key.strip('"'))


def of_nobody(router: APIRouter) -> Iterator[str]:
    """The routes that take keys of callers whom they do not know: one would be given what was answered to another."""
    for context in routes_of(router):
        calls = list(calls_of(dependant_of(context)))
        if _idempotent in calls and not any(isinstance(one, Requires) for one in calls):
            route = name_of(context)
            yield f"{route} is idempotent, but does not know whose the keys are: put requires(...) before it."


idempotent: Any = Depends(_idempotent, scope="function")
"""For a route, or a router, whose requests may be repeated with their key: `dependencies=[requires(...), idempotent]`.

Behind whatever says who may ask, since dependencies run in their order, and before whatever asks the database.
"""
