"""Whether a statement writes or locks, told from its text: a transaction that has only read can be given up."""

import re
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import Connection

_WRITTEN = "kernel.written"
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_READS = re.compile(r"[\s(;]*(SELECT|WITH|VALUES|TABLE|SHOW|EXPLAIN|PRAGMA|BEGIN|SAVEPOINT|RELEASE|$)", re.IGNORECASE)
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


def forget_writes(connection: Connection) -> None:
    """A listener, when a transaction begins."""
    connection.info.pop(_WRITTEN, None)


def written_on(connection: Connection) -> str | None:
    """What the transaction of this connection has written."""
    return connection.info.get(_WRITTEN)
