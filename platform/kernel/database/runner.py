"""How an extension runs the statements of repositories without SQLAlchemy's session."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select
from sqlalchemy.sql import ClauseElement

if TYPE_CHECKING:
    from kernel.database.repository import BaseRepository

Rows = list[Sequence[Any]]
Schema = type[BaseModel]

# An option of engines: a function that takes a statement's text and returns a context manager, for instance a span. A
# runner enters it around each statement, as such statements reach none of SQLAlchemy's listeners.
AROUND = "kernel_around"
Around = Callable[[str], AbstractContextManager[object]]


class StatementRunner(Protocol):
    """Runs statements in the transaction of one session.

    A repository asks the runner of its session first. Each method returns None for a statement that SQLAlchemy's
    session has to run, because the ORM may know the row or a value is an expression; the repository then runs it there.
    """

    async def fetch(self, statement: ClauseElement, params: Mapping[str, Any] | None = None) -> Rows | None:
        """Return the rows of a statement."""

    async def fetch_shape(
        self,
        key: Hashable,
        conditions: Sequence[ColumnElement[bool]],
        build: Callable[[], Select[Any]],
        params: Mapping[str, Any],
    ) -> Rows | None:
        """Return the rows of the statement that `build` makes.

        A statement may be kept for further calls with the same `key` and conditions that differ only in their values.
        """

    async def insert_row(
        self, repository: "BaseRepository[Any, Any]", into: Schema, values: Mapping[str, Any]
    ) -> Rows | None:
        """Insert a row and return the columns of `into`."""

    async def update_row(
        self,
        repository: "BaseRepository[Any, Any]",
        into: Schema,
        id_: Any,
        versions: Collection[int] | None,
        values: Mapping[str, Any],
    ) -> Rows | None:
        """Change a row that has one of `versions` (None: any), and return the columns of `into`."""

    async def delete_row(
        self, repository: "BaseRepository[Any, Any]", id_: Any, versions: Collection[int] | None
    ) -> Rows | None:
        """Delete a row that has one of `versions` (None: any), and return its primary key."""
