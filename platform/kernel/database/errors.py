"""The errors of the database, distinguished without parsing messages."""

from typing import Literal

import asyncpg
from sqlalchemy.exc import DataError, DBAPIError, EmulatedDBAPIException, SQLAlchemyError

from kernel.errors import ProjectError

# Whatever a driver, or SQLAlchemy around it, raises where a command of ours cannot do its work on a database.
DRIVER_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
FAILURES = (*DRIVER_FAILURES, SQLAlchemyError)

# PostgreSQL error codes (Appendix A of its manual) that mean "not now" rather than "not so": connection exceptions,
# insufficient resources, operator intervention, lock not available.
_UNAVAILABLE_CLASSES = ("08", "53", "57")
# lock_not_available; read_only_sql_transaction: a failed-over primary; serialization_failure, deadlock_detected.
_UNAVAILABLE_CODES = ("55P03", "25006", "40001", "40P01")
_SQLITE_UNAVAILABLE = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
)


class DatabaseUnavailable(Exception):
    """The database did not answer, not in time, or had no room: the same request may succeed later."""

    # The detail of the response.
    public = "The database is not available"


class PoolExhausted(DatabaseUnavailable):
    """All connections of a pool are in use, and have been for a while."""


class StalePlan(DatabaseUnavailable):
    """The table has changed since the connection prepared the statement; the next attempt prepares it anew."""


class SessionClosed(RuntimeError):
    """A session was used after its request or its block had ended."""

    def __init__(self) -> None:
        super().__init__(
            "This session has ended: a request's session ends when its handler returns, before background tasks and "
            "streamed responses run. Open another one where you need it, with `async with database.read()` or "
            "`async with database.transaction()`."
        )


class ConcurrentUse(RuntimeError):
    """A session was used by two tasks at the same time."""

    def __init__(self) -> None:
        super().__init__(
            "This session is running another statement. A session runs one statement after the other: await each "
            "before the next, or open a session in each task."
        )


class TransactionAborted(RuntimeError):
    """A statement of the transaction failed, the error was caught, and the transaction was to go on or to commit."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"A statement of this transaction failed ({type(error).__name__}), so that nothing of it can be committed. "
            "Let the error end the transaction, or put a statement that may fail into "
            "`async with session.begin_nested():`."
        )


class StaleVersion(Exception):
    """The row has another version than the one that the caller has read: it was changed meanwhile."""


class NotAllowed(Exception):
    """The caller may read the row, and may not change it."""


class MigrationError(ProjectError):
    """A history that cannot be applied, or a database that is not where it should be; says what to do."""


class ReadOnlySession(Exception):
    """A write was tried in a read session, which GET and HEAD requests get."""

    def __init__(self) -> None:
        super().__init__(
            "GET and HEAD requests and WebSockets have a read session, without a transaction. Write in a POST, PUT, "
            "PATCH or DELETE, or open a transaction of your own with `async with database.transaction()`."
        )


Violation = Literal["unique", "reference", "missing", "check", "value"]

_VIOLATIONS: dict[str, Violation] = {
    "23505": "unique",
    "23P01": "unique",
    "23503": "reference",
    "23001": "reference",
    "23502": "missing",
    "23514": "check",
    "SQLITE_CONSTRAINT_UNIQUE": "unique",
    "SQLITE_CONSTRAINT_PRIMARYKEY": "unique",
    "SQLITE_CONSTRAINT_FOREIGNKEY": "reference",
    "SQLITE_CONSTRAINT_NOTNULL": "missing",
    "SQLITE_CONSTRAINT_CHECK": "check",
    "SQLITE_TOOBIG": "value",
}


def violation_of(error: DBAPIError) -> Violation | None:
    """Which rule of the schema a statement broke, by SQLSTATE on PostgreSQL and by extended code on SQLite."""
    if isinstance(error.orig, OverflowError):  # SQLite's driver, and a moment outside the calendar
        return "value"
    code = code_of(error.orig)
    return _VIOLATIONS.get(code) or ("value" if code.startswith("22") else None)


def out_of_range(error: OverflowError, statement: str | None) -> DataError:
    """The error for a value that no column holds; SQLite's driver says so in a way that SQLAlchemy does not know."""
    return DataError(statement, None, error, hide_parameters=True)


def is_outage(error: BaseException) -> bool:
    """Return whether a driver's error means that the database is down, late, full, busy or shutting down."""
    code = code_of(error)
    return isinstance(error, OSError) or code.startswith(
        (*_UNAVAILABLE_CLASSES, *_UNAVAILABLE_CODES, *_SQLITE_UNAVAILABLE)
    )


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's error; SQLAlchemy wraps it, and for some forgets to say which it was."""
    if not isinstance(error, EmulatedDBAPIException):
        return error
    return error.orig or error.__cause__ or error


def is_stale_plan(error: BaseException) -> bool:
    """Return True if a statement was prepared for a table that has changed since."""
    return isinstance(driver_error(error), asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError)


def reason_of(error: BaseException) -> str:
    """The driver's own words for what failed, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause.__cause__, DRIVER_FAILURES):
        cause = cause.__cause__
    return str(cause).strip() or ("no answer in time" if isinstance(cause, TimeoutError) else type(cause).__name__)


def code_of(error: BaseException | None) -> str:
    """The SQLSTATE of asyncpg's errors, the extended result code's name of SQLite's, or ""."""
    return getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None) or ""
