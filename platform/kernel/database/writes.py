"""Tells from the text of its statements if a transaction has written or locked, and notes if one has failed."""

import re
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import Connection

# In what a connection remembers of its transaction.
_WRITTEN, _FAILED = "kernel.written", "kernel.failed"
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_READS = re.compile(
    r"[\s(;]*(SELECT|WITH|VALUES|TABLE|SHOW|EXPLAIN|PRAGMA|BEGIN|SAVEPOINT|RELEASE|SET\s+LOCAL|$)", re.IGNORECASE
)
_WRITES = re.compile(
    r"\b(INSERT\s+INTO|REPLACE\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO|INTO|pg_\w*advisory\w*"
    r"|FOR\s+(?:NO\s+KEY\s+|KEY\s+)?(?:UPDATE|SHARE))\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=1000)
def what_it_writes(statement: str) -> str | None:
    """What of it writes or locks, in a few words; None for one that only reads.

    Whatever does not begin like a reading one is taken to write. A function that writes, called by SELECT, is not seen.
    """
    if not _READS.match(statement):
        return " ".join(statement.split()[:3])
    found = _WRITES.search(_QUOTED.sub("", statement))
    return None if found is None else " ".join(found[1].split())


def note_write(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    """A listener, before each statement that goes through SQLAlchemy."""
    if (what := what_it_writes(statement)) is not None:
        connection.info.setdefault(_WRITTEN, what)


def note_failure(connection: Connection, error: BaseException) -> None:
    """Note that a statement has failed, unless the savepoint around it undoes that."""
    if not connection.in_nested_transaction():
        connection.info.setdefault(_FAILED, error)


def begin_anew(connection: Connection) -> None:
    """A listener, when a transaction begins."""
    connection.info.pop(_WRITTEN, None)
    connection.info.pop(_FAILED, None)


def written_on(connection: Connection) -> str | None:
    """Return what the transaction of this connection has written."""
    return connection.info.get(_WRITTEN)


def failure_on(connection: Connection) -> BaseException | None:
    """Return the error of the first statement of this connection's transaction that failed outside of a savepoint.

    On PostgreSQL such a transaction can only be rolled back. On SQLite it could go on; it does not, so that both
    databases give the same answer.
    """
    return connection.info.get(_FAILED)
