"""Notes about the transaction of a connection: the first statement that wrote or locked, and the first that failed."""

import re
from functools import lru_cache

# Keys of `Connection.info`. The first write of the transaction, in a few words.
WRITTEN = "kernel.written"
# The error of the first statement that failed outside of a savepoint. On PostgreSQL such a transaction can only be
# rolled back. On SQLite it could go on; it does not, so that both databases give the same answer.
FAILED = "kernel.failed"
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
    """Return the words of a statement that write or lock; None for one that only reads.

    A statement that does not begin like a reading one counts as writing. A function that SELECT calls is not seen.
    """
    if not _READS.match(statement):
        return " ".join(statement.split()[:3])
    found = _WRITES.search(_QUOTED.sub("", statement))
    return None if found is None else " ".join(found[1].split())
