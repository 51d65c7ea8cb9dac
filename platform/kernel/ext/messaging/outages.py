"""Tell an outage from a failure of the message.

An outage passes without a change of the message or of the code: something is unreachable, does not answer in time, or
answers 429 or 503. It counts as no attempt. Any other failure counts, so that a message that can never be delivered
is abandoned and does not block its key.
"""

import asyncio
from collections.abc import Iterator

from kernel.database import Database, DatabaseUnavailable
from kernel.database.errors import PoolExhausted, code_of
from kernel.http_client import is_outage as is_upstream_outage
from kernel.modules.contracts import ContractBroken, ContractUnavailable

_STATEMENT_TIMED_OUT = "57014"
_PROBE_SECONDS = 2.0


class Outage(Exception):
    """The subscriber, or something that its handler needs, is not available now; says what."""


class Failed(Exception):
    """A delivery that failed and counts as an attempt; its text is the whole reason."""


async def is_outage(error: BaseException, database: Database) -> bool:
    """Return whether an error of a handler is an outage. `database` is the one of the handler's module."""
    match error:
        case ContractBroken():
            return False
        case ContractUnavailable() | PoolExhausted():
            return True
        case DatabaseUnavailable():
            return not _is_late_statement(error) or not await _answers(database)
    return isinstance(error, Outage) or is_upstream_outage(error)


def _is_late_statement(error: BaseException) -> bool:
    """Return whether a statement exceeded its timeout: because it is slow, or because the database is frozen."""
    return any(isinstance(one, TimeoutError) or code_of(one) == _STATEMENT_TIMED_OUT for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


async def _answers(database: Database) -> bool:
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await database.check()
    except (DatabaseUnavailable, TimeoutError):
        return False
    return True
