"""Run statements that SQLAlchemy compiled on the driver itself.

SQLAlchemy compiles each shape of a statement once. The text then runs on the driver, over a connection of SQLAlchemy's
own pool. This skips the layers between the two: greenlet, cursor, execution context and result, which take two thirds
of the time of a small read (`make bench`).

SQLAlchemy still provides the text, Python-side defaults, the conversion of parameters and results, and the error
classes, so that both ways give the same results. `platform/tests/fast/test_driver.py` compares both value by value, and
`DATABASE_DIRECT_STATEMENTS=false` switches this one off.

Names with a leading underscore belong to SQLAlchemy. Its version is locked, and that test fails when they change.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import BindParameter, TextClause
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import LRUCache

from kernel.database.errors import DatabaseUnavailable, StalePlan, code_of, is_outage, is_stale_plan, out_of_range
from kernel.database.runner import AROUND, Around, Rows
from kernel.database.writes import what_it_writes
from kernel.ext.pool.errors import LostConnection

Values = Sequence[BindParameter[Any]]
Convert = Callable[[Any], Any]
Fetch = Callable[[Any, Dialect, "Statement", list[Any]], Awaitable[Rows]]

# The same number of statements that SQLAlchemy itself caches for an engine.
_SHAPES = 500
# The server ends the connection (admin_shutdown, crash_shutdown, cannot_connect_now) and undoes its open transaction.
_GOODBYES = frozenset({"57P01", "57P02", "57P03"})


class Statement:
    """One shape of a statement: its text, and how its values and results are converted."""

    __slots__ = ("_binds", "_compiled", "_defaults", "_results", "runs_on_driver", "text", "writes")

    def __init__(self, compiled: SQLCompiler, dialect: Dialect, schemas: Mapping[str | None, str]) -> None:
        self._compiled = compiled
        self.text = compiled.string
        if compiled.schema_translate_map:
            self.text = compiled.preparer._render_schema_translates(self.text, schemas)
        self.writes = what_it_writes(self.text)
        convert: Mapping[str, Any] = compiled._bind_processors
        self._binds = [(name, convert.get(name)) for name in compiled.positiontup or ()]
        filled = [(column, column.default) for column in compiled.insert_prefetch]
        filled += [(column, column.onupdate) for column in compiled.update_prefetch]
        self._defaults: list[tuple[str, Any]] = [
            (compiled._within_exec_param_key_getter(column), default) for column, default in filled
        ]
        self._results: list[tuple[int, Convert]] | None = None
        # Whether the text is the same for all values (IN has as many parameters as values), SQLAlchemy knows the
        # columns of the result (those of text() it learns from a cursor), and no default needs a cursor.
        varies = compiled.post_compile_params or compiled.literal_execute_params
        is_known = not varies and not isinstance(compiled.statement, TextClause)
        self.runs_on_driver = is_known and all(default.is_scalar or _is_plain(default) for _, default in self._defaults)

    def arguments(self, params: Mapping[str, Any] | None, values: Values | None, collected: Any) -> list[Any]:
        """Return the values of the text's parameters in their order, converted for the driver."""
        named = self._compiled.construct_params(
            params, extracted_parameters=values, escape_names=False, _collected_params=collected
        )
        for key, default in self._defaults:
            named[key] = default.arg if default.is_scalar else default.arg(None)
        return [named[name] if convert is None else convert(named[name]) for name, convert in self._binds]

    def learn_results(self, dialect: Dialect, kinds: Sequence[Any]) -> None:
        """Store how results are converted; `kinds` are the driver's own types of the columns."""
        columns = self._compiled._result_columns
        found = (
            column.type._cached_result_processor(dialect, kind) for column, kind in zip(columns, kinds, strict=True)
        )
        self._results = [(index, convert) for index, convert in enumerate(found) if convert is not None]

    @property
    def knows_results(self) -> bool:
        return self._results is not None

    def converted(self, rows: Rows) -> Rows:
        """Return the rows with each value as its column's type returns it."""
        if not self._results:
            return rows
        converted: Rows = []
        for row in rows:
            values = list(row)
            for index, convert in self._results:
                values[index] = convert(values[index])
            converted.append(values)
        return converted


def _is_plain(default: Any) -> bool:
    """Return whether a default is a function without arguments (SQLAlchemy passes others a cursor)."""
    return bool(default.is_callable) and hasattr(default.arg, "__wrapped__")


class DriverExecutor:
    """Runs statements for the module whose tables are in `schemas`."""

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect
        self._schemas: Mapping[str | None, str] = engine.get_execution_options().get("schema_translate_map", {})
        self._compiled: Any = LRUCache(_SHAPES)
        self._statements: WeakKeyDictionary[SQLCompiler, Statement] = WeakKeyDictionary()
        self._fetch: Fetch = _fetch_asyncpg if self._dialect.driver == "asyncpg" else _fetch_aiosqlite
        if (around := engine.get_execution_options().get(AROUND)) is not None:
            self._fetch = _inside(around, self._fetch)

    def prepare(
        self, statement: ClauseElement, params: Mapping[str, Any] | None, values: Values | None
    ) -> tuple[Statement, list[Any]] | None:
        """Return the text and the arguments of a statement, or None if it must go through SQLAlchemy.

        `params` are the values of named parameters and of columns to write; `values` replace those in the statement,
        in the order of its cache key. Raises sqlalchemy.exc.StatementError for a value that its type refuses.
        """
        compiled: Any
        compiled, own_values, collected, _ = statement._compile_w_cache(
            self._dialect,
            compiled_cache=self._compiled,
            column_keys=sorted(params) if params else [],
            schema_translate_map=self._schemas or None,
        )
        shape = self._statements.get(compiled)
        if shape is None:
            shape = self._statements[compiled] = Statement(compiled, self._dialect, self._schemas)
        if not shape.runs_on_driver:
            return None
        try:
            return shape, shape.arguments(params, own_values if values is None else values, collected)
        except Exception as error:
            raise self._instance(error, shape.text) from error

    async def begin(self, connection: ConnectionPoolEntry) -> None:
        """Begin a transaction that SQLAlchemy knows too. Raises as `run` does."""
        adapted: Any = connection.dbapi_connection
        try:
            await adapted._start_transaction()
        except Exception as error:
            raise self._translated(error, connection, "BEGIN") from error

    async def end(self, connection: ConnectionPoolEntry, *, commit: bool) -> None:
        """Commit or roll back the transaction of `begin`. Raises as `run` does."""
        adapted: Any = connection.dbapi_connection
        transaction = adapted._transaction
        if transaction is None:  # A COMMIT has failed, which ended the transaction.
            return
        try:
            await adapted._call_and_discard(transaction.commit if commit else transaction.rollback)
        except Exception as error:
            raise self._translated(error, connection, "COMMIT" if commit else "ROLLBACK") from error

    async def run(self, connection: ConnectionPoolEntry, shape: Statement, arguments: list[Any]) -> Rows:
        """Return the rows of the statement. Raises DatabaseUnavailable and sqlalchemy.exc.DBAPIError."""
        try:
            rows = await self._fetch(connection.driver_connection, self._dialect, shape, arguments)
        except Exception as error:
            raise self._translated(error, connection, shape.text) from error
        return shape.converted(rows)

    def _translated(self, error: Exception, connection: ConnectionPoolEntry, text: str) -> BaseException:
        """Return the driver's error as SQLAlchemy and the kernel raise it."""
        # If the connection ends at this moment, asyncpg reports an internal error of its own.
        is_over = code_of(error) in _GOODBYES or isinstance(error, ConnectionError | asyncpg.InternalClientError)
        if is_over or _is_closed(connection):
            return LostConnection(f"the database gave no answer ({type(error).__name__})")
        if is_stale_plan(error):
            return StalePlan("the table has changed since the statement was prepared: try again")
        if is_outage(error):
            return DatabaseUnavailable(f"the database gave no answer ({type(error).__name__})")
        try:
            connection.dbapi_connection._handle_exception(error)  # type: ignore[union-attr]  # of SQLAlchemy's adapters
        except Exception as translated:  # noqa: BLE001  # it always raises
            return self._instance(translated, text)
        return error

    def _instance(self, error: Exception, text: str) -> BaseException:
        if isinstance(error, OverflowError):
            return out_of_range(error, text)
        base = self._dialect.loaded_dbapi.Error
        return DBAPIError.instance(text, None, error, base, hide_parameters=True, dialect=self._dialect)


def _inside(around: Around, fetch: Fetch) -> Fetch:
    async def fetch_inside(driver: Any, dialect: Dialect, shape: Statement, arguments: list[Any]) -> Rows:
        with around(shape.text):
            return await fetch(driver, dialect, shape, arguments)

    return fetch_inside


def _is_closed(connection: ConnectionPoolEntry) -> bool:
    is_closed: Callable[[], bool] = getattr(connection.driver_connection, "is_closed", lambda: False)
    return is_closed()


async def _fetch_asyncpg(driver: Any, dialect: Dialect, shape: Statement, arguments: list[Any]) -> Rows:
    if not shape.knows_results:
        prepared = await driver.prepare(shape.text)
        shape.learn_results(dialect, [attribute.type.oid for attribute in prepared.get_attributes()])
    rows: Rows = await driver.fetch(shape.text, *arguments)  # asyncpg prepares it once for each connection.
    return rows


async def _fetch_aiosqlite(driver: Any, dialect: Dialect, shape: Statement, arguments: list[Any]) -> Rows:
    if not shape.knows_results:  # SQLite's converters do not use the driver's types.
        shape.learn_results(dialect, [None] * len(shape._compiled._result_columns))
    rows: Rows = await driver.execute_fetchall(shape.text, arguments)
    return rows
