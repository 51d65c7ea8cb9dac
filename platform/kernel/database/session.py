"""Sessions that cost nothing until the ORM is asked: until then, their statements run on the driver."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.sql import ClauseElement
from sqlalchemy.util import greenlet_spawn

from kernel.database.direct import Direct, Rows, Statement, Values
from kernel.database.engines import BoundedPool
from kernel.database.errors import ReadOnlySession

# What AsyncSession's constructor sets; whatever needs the ORM goes through one of these.
_MADE_LATE = frozenset({"sync_session", "_proxied", "_async_bind", "_async_binds"})

Action = Callable[[], Awaitable[None]]


class LazySession(AsyncSession):
    """An AsyncSession that becomes one when it is used as one."""

    def __init__(self, engine: AsyncEngine, direct: Direct | None) -> None:
        self._engine = engine
        self._direct = direct
        self.after_commit: list[Action] = []

    def __getattr__(self, name: str) -> Any:
        if name not in _MADE_LATE:
            raise AttributeError(name)
        self._become()
        return self.__dict__[name]

    @property
    def uses_orm(self) -> bool:
        """Whether it has been used as a session, which may hold changes that only it knows of."""
        return "sync_session" in self.__dict__

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """SQLAlchemy's; the plain question after the database does not wake the ORM."""
        return super().get_bind(*args, **options) if self.uses_orm or args or options else self._engine.sync_engine

    async def fetch(
        self, statement: ClauseElement, params: Mapping[str, Any] | None = None, values: Values | None = None
    ) -> Rows | None:
        """The rows of a statement, run on the driver; None if it must go through SQLAlchemy. See Direct.prepare."""
        if self._direct is None or self.uses_orm:
            return None
        prepared = self._direct.prepare(statement, params, values)
        return None if prepared is None else await self._run(self._direct, *prepared)

    def _become(self) -> None:
        raise NotImplementedError

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        raise NotImplementedError

    def _pool(self) -> BoundedPool:
        pool = self._engine.sync_engine.pool
        assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: others have no Direct
        return pool


class _ReadOnly(Session):
    """The synchronous core of a read session."""


@event.listens_for(_ReadOnly, "before_flush")
def _refuse_to_write(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise ReadOnlySession


class ReadSession(LazySession):
    """Each statement sees what is committed when it runs, and keeps its connection no longer than it takes."""

    def _become(self) -> None:
        AsyncSession.__init__(self, self._engine, sync_session_class=_ReadOnly, expire_on_commit=False)

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        connection, rows = await self._pool().attempt(partial(direct.run, shape=shape, arguments=arguments))
        connection.close()
        return rows

    async def release(self) -> None:
        """Give everything back."""
        if self.uses_orm:
            await self.close()


class WriteSession(LazySession):
    """One transaction, begun by its first statement."""

    _held: Connection | None = None

    def _become(self) -> None:
        bind = self._engine if self._held is None else AsyncConnection(self._engine, self._held)
        # A session that joins the transaction that statements have begun is to end it, too.
        AsyncSession.__init__(self, bind, expire_on_commit=False, join_transaction_mode="control_fully")
        self.sync_session.begin()

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        if self._held is None:
            lent, _ = await self._pool().attempt(direct.begin)
            self._held = Connection(self._engine.sync_engine, lent)
            self._held.begin()
        try:
            return await direct.run(self._held.connection, shape, arguments)
        except BaseException as error:
            if not isinstance(error, Exception):  # cancelled: the answer is still to come
                self._held.invalidate(error)
            raise

    async def finish(self) -> None:
        """Commit."""
        if self.uses_orm:
            await self.commit()
        elif self._held is not None:
            await greenlet_spawn(self._held.commit)

    async def release(self) -> None:
        """Give everything back; what is not committed is rolled back."""
        if self.uses_orm:
            await self.close()
        if self._held is not None:
            if self._held.in_transaction():
                await greenlet_spawn(self._held.close)
            else:
                self._held.close()
