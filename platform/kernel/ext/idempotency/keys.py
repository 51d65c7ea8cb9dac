"""The idempotency keys of a module (draft-ietf-httpapi-idempotency-key-header).

A key's row is written in the transaction of its request, so that the key is stored if and only if the effect is. It is
the transaction's last statement, so that a handler may call other modules before it writes. Of two requests with one
key in two processes, both run and one commits; in one process the second is refused at once. A request that fails
stores nothing, and may be repeated with its key.

The response is added after the commit and before it is sent. If the process ends between the two, the key has no
response: a repeated request is then answered that the first was carried out, and is not carried out again.
"""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, cast
from weakref import WeakValueDictionary

import structlog
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
from starlette.requests import Request

from kernel.auth.principal import principal_of
from kernel.database import Database, DatabaseUnavailable, UtcDateTime, after_commit, utc_now
from kernel.database.errors import FAILURES
from kernel.database.pool import before_commit
from kernel.database.session import DatabaseSession
from kernel.ext.idempotency.fingerprint import fingerprint
from kernel.ext.recorder import RecordedResponse, Replay, ResponseRecorder
from kernel.web.problems import Conflict, Unprocessable

_log = structlog.get_logger("kernel.idempotency")

# A larger response is not stored: a repeated request is answered that the first was carried out.
_MAX_RESPONSE_BYTES = 1024 * 1024
_SWEEP_PAUSE = timedelta(seconds=10)
_SWEEP_ROWS = 500
_RETRY_AFTER = {"Retry-After": "1"}


class IdempotencyTable:
    """The columns of a table for idempotency keys, in a module whose routes use `idempotent`.

    In its models.py: `class Idempotency(IdempotencyTable, Base): __tablename__ = "idempotency"`.
    """

    # A hash of module, caller and key.
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    # A hash of the request.
    fingerprint: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    # The response, None until it is known. The headers are JSON, a list of pairs.
    status: Mapped[int | None]
    headers: Mapped[str | None] = mapped_column(Text)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


class IdempotencyKeys:
    """The idempotency keys of one module, in its own database."""

    def __init__(self, module: str, database: Database, table: Table, keep_seconds: float) -> None:
        self.module = module
        self.database = database
        self._keeps = timedelta(seconds=keep_seconds)
        # The requests that this process handles; weak, so that the claim of a cancelled request goes with it.
        self._claims: WeakValueDictionary[str, _Claim] = WeakValueDictionary()
        self._swept_at: datetime | None = None
        c = table.c
        of_id, expired_at = c.id == bindparam("of_id"), bindparam("expired_at", type_=UtcDateTime)
        self._find = select(c.fingerprint, c.status, c.headers, c.body).where(of_id, c.created_at >= expired_at)
        self._add_response = update(table).where(of_id).returning(c.id)
        expired = select(c.id).where(c.created_at < expired_at).order_by(c.created_at).limit(_SWEEP_ROWS)
        self._sweep = delete(table).where(c.id.in_(expired)).returning(c.id)
        self._insert = _insertion(table, expired_at, on_postgresql=database.writer.dialect.name == "postgresql")

    async def claim(self, request: Request, session: AsyncSession, key: str) -> None:
        """Have the session write the key, and the response stored. Raises Replay, Conflict and Unprocessable."""
        principal = await principal_of(request)
        caller = "" if principal is None else principal.key
        id_ = hashlib.sha256("\0".join((self.module, caller, key)).encode()).hexdigest()
        if id_ in self._claims:
            raise _in_progress()
        claim = self._claims[id_] = _Claim(self, id_, session)
        ResponseRecorder(request.scope, claim.end, _MAX_RESPONSE_BYTES)  # every response ends the claim, errors too
        claim.fingerprint = await fingerprint(request)
        async with self.database.read() as reader:
            await self.look_up(reader, claim)
        before_commit(session, claim.write)
        after_commit(session, claim.note_commit)

    async def look_up(self, session: DatabaseSession, claim: "_Claim") -> None:
        """Raise Replay, Conflict or Unprocessable if the key is stored."""
        rows = await session.rows(self._find, {"of_id": claim.id, "expired_at": utc_now() - self._keeps})
        if not rows:
            return
        stored, status, headers, body = rows[0]
        if stored != claim.fingerprint:
            problem = "the key was sent before, with another request: use a new one for each"
            raise Unprocessable("idempotency-key", problem, code="key_reused", part="header")
        if status is None:
            detail = (
                "The request with this key was carried out, but its response is not stored (yet). "
                "Look for its effect before you send the request with another key."
            )
            raise Conflict(detail, headers=_RETRY_AFTER)
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(headers)]
        raise Replay(RecordedResponse(status, pairs, body).with_headers((b"idempotency-replayed", b"true")))

    async def write(self, claim: "_Claim") -> None:
        """Insert the key's row, as the last statement of its transaction. Raises as `look_up` if it is stored now."""
        now = utc_now()
        values = {"of_id": claim.id, "of_fingerprint": claim.fingerprint, "of_created_at": now}
        if not await claim.session.rows(self._insert, {**values, "expired_at": now - self._keeps}):
            await self.look_up(claim.session, claim)
            raise _in_progress()

    async def save_response(self, claim: "_Claim", response: RecordedResponse) -> None:
        """Add the response to the row, and sometimes delete expired rows. A failure loses the response alone."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
        values = {"status": response.status, "headers": json.dumps(pairs), "body": response.body}
        try:
            await self.database.run(self._add_response, {"of_id": claim.id, **values})
            now = utc_now()
            if self._swept_at is None or now - self._swept_at > _SWEEP_PAUSE:
                self._swept_at = now
                await self.database.run(self._sweep, {"expired_at": now - self._keeps})
        except (DatabaseUnavailable, *FAILURES) as error:
            _log.warning("the response to an idempotency key is not stored", module=self.module, cause=repr(error))

    def release(self, claim: "_Claim") -> None:
        """End a claim: its request has been answered."""
        self._claims.pop(claim.id, None)


class _Claim:
    """One request with a key, until it is answered."""

    def __init__(self, keys: IdempotencyKeys, id_: str, session: AsyncSession) -> None:
        self._keys = keys
        self.id = id_
        self.session = cast(DatabaseSession, session)  # before_commit refuses others
        self.fingerprint = ""
        self._is_committed = False

    async def write(self) -> None:
        await self._keys.write(self)

    async def note_commit(self) -> None:
        self._is_committed = True

    async def end(self, response: RecordedResponse | None) -> None:
        try:
            if self._is_committed and response is not None:
                await self._keys.save_response(self, response)
        finally:
            self._keys.release(self)


def _insertion(table: Table, expired_at: BindParameter[datetime], *, on_postgresql: bool) -> Any:
    """Return an INSERT that returns no row if the key is stored and has not expired.

    On PostgreSQL it also returns none while another transaction is about to commit the key: without the advisory lock,
    which ends with the transaction, it would wait for the other.
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


def _in_progress() -> Conflict:
    return Conflict("A request with this key is in progress. Repeat it when that one has ended.", headers=_RETRY_AFTER)
