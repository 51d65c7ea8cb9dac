"""Read models and migrations through SQLAlchemy and Alembic, however they are written.

Runs in the process of `kernel.ext.boundaries.imported`. It creates every table and runs every migration on a connection
that only records the statements, so that foreign keys, schemas, enums, sequences, defaults and listeners are exact.
"""

import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    ClauseElement,
    Column,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    event,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.engine import Dialect, IteratorResult, make_url
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, DeclarativeBaseNoMeta, Mapper, RelationshipProperty

from kernel.ext.boundaries.imported import import_file

# A file below the root and a line; "" for a file outside the project.
Place = tuple[str, int]
_NOWHERE: Place = ("", 0)
_BASES = (DeclarativeBase, DeclarativeBaseNoMeta)


def collect(root: Path) -> dict[str, Any]:
    """Import every module's models and run every migration. The result can be written as JSON."""
    logging.getLogger("alembic").setLevel(logging.ERROR)
    models = _Models(root.resolve())
    models.load()
    described = [models.described(table) for table in models.tables]
    references = [*models.foreign_keys(), *models.relationships()]
    statements = _Statements(models)
    statements.create_tables()
    statements.read_mappers()
    statements.run_migrations()
    return {
        "problems": models.problems,
        "bases": list(models.bases()),
        "tables": described,
        "references": references,
        "unresolved": models.unresolved,
        "statements": list(statements.found),
    }


class _Models:
    """The models of the modules as SQLAlchemy has them, and the place where each part was created."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Files that could not be read: file, line and reason.
        self.problems: list[tuple[str, int, str]] = []
        # Relationships that do not resolve among the classes on their declarative base.
        self.unresolved: list[tuple[str, int, str]] = []
        self.tables: list[Table] = []
        self.mappers: list[Mapper[Any]] = []
        self._failed: set[int] = set()
        # Keeps the objects alive, so that identities stay unique.
        self._places: dict[int, tuple[object, Place]] = {}

    def load(self) -> None:
        """Import the models, and record each table, mapper and foreign key that this creates."""
        with (
            _listening(Table, "after_parent_attach", lambda table, _: self._made(table, self.tables)),
            _listening(ForeignKey, "after_parent_attach", lambda key, _: self._made(key, [])),
            _listening(Mapper, "after_mapper_constructed", lambda mapper, _: self._made(mapper, self.mappers)),
        ):
            for file in sorted((self.root / "modules").glob("*/models.py")):
                self._import(file, f"modules.{file.parent.name}.models")
            for file in sorted((self.root / "modules").glob("*/models/**/*.py")):
                parts = file.relative_to(self.root).with_suffix("").parts
                self._import(file, ".".join(parts).removesuffix(".__init__"))
            # A router imports its service and repository, which may create tables too.
            for file in sorted((self.root / "modules").glob("*/router*")):
                import_file(self.root, f"modules.{file.parent.name}.router")

    def _import(self, file: Path, dotted: str) -> None:
        if reason := import_file(self.root, dotted):
            self.problems.append((self.below(file), 0, reason))

    def below(self, file: Path) -> str:
        """Return the path of a file below the root, with slashes."""
        return file.relative_to(self.root).as_posix()

    def _made(self, item: Any, several: list[Any]) -> None:
        several.append(item)
        place = self.here("modules") or _NOWHERE
        self._places.setdefault(id(item), (item, place))

    def here(self, folder: str) -> Place | None:
        """Return the innermost place in a folder on the current call stack."""
        frame, start = inspect.currentframe(), f"{self.root / folder}/"
        while frame is not None:
            if frame.f_code.co_filename.startswith(start):
                return self.below(Path(frame.f_code.co_filename)), frame.f_lineno
            frame = frame.f_back
        return None

    def place(self, item: object, otherwise: object = None) -> Place:
        """Return the place where an object was created."""
        return next((self._places[id(one)][1] for one in (item, otherwise) if id(one) in self._places), _NOWHERE)

    def bases(self) -> Iterator[dict[str, Any]]:
        """Return the declarative bases of the project, each with the other names of its metadata."""
        every, named = _all_bases(), _named_metadata()
        for base in every:
            path = self._path_of(base.__module__)
            if path:
                others = [f"{one.__module__}.{one.__name__}" for one in every if one.metadata is base.metadata]
                yield {
                    "path": path,
                    "name": base.__name__,
                    "metadata": sorted(
                        {*others, *named.get(id(base.metadata), ())} - {f"{base.__module__}.{base.__name__}"}
                    ),
                    "is_named": {"ix", "uq", "ck", "fk", "pk"} <= set(base.metadata.naming_convention),
                }

    def _path_of(self, module: str) -> str:
        file = Path(getattr(sys.modules.get(module), "__file__", None) or "").resolve()
        return self.below(file) if file.is_relative_to(self.root) else ""

    def described(self, table: Table) -> dict[str, Any]:
        """Return a table, with its entity and the name of its declarative base if it has them."""
        path, line = self.place(table)
        mapper = next((one for one in self.mappers if one.local_table is table), None)
        bases = [one for one in _all_bases() if one.metadata is table.metadata]
        if mapper is not None:
            bases = [one for one in bases if issubclass(mapper.class_, one)]
        return {
            "path": path,
            "line": line,
            "name": table.name,
            "schema": table.schema,
            "entity": mapper.class_.__name__ if mapper is not None else None,
            "base": next((f"{one.__module__}.{one.__name__}" for one in bases), None),
        }

    def foreign_keys(self) -> Iterator[tuple[str, int, str, str | None, str | None]]:
        """Return each foreign key: its place, its kind, and the schema and name of the target table.

        A target outside the metadata gets an empty table, so that SQLAlchemy can create the statements.
        """
        for table in self.tables:
            for key in sorted(table.foreign_keys, key=lambda key: key.target_fullname):
                *schema, name, column = key.target_fullname.split(".")
                try:
                    target = key.column.table
                except SQLAlchemyError:
                    target = None
                if target is None or target.metadata is not table.metadata:
                    yield *self.place(key, table), "table", ".".join(schema) or None, name
                if target is None:
                    with suppress(SQLAlchemyError):
                        stand_in = Table(name, table.metadata, schema=".".join(schema) or None, extend_existing=True)
                        stand_in.append_column(Column(column, Integer, primary_key=True), replace_existing=True)

    def relationships_of(self, mapper: Mapper[Any]) -> list[RelationshipProperty[Any]]:
        """Return the relationships of an entity; none if a relationship on its declarative base does not resolve."""
        return [] if id(mapper.registry) in self._failed else list(mapper.relationships)

    def relationships(self) -> Iterator[tuple[str, int, str, str | None, str | None]]:
        """Return each relationship to another declarative base: its place, its kind, and the entity or table."""
        for registry in {id(one.registry): one.registry for one in self.mappers}.values():
            mappers = [one for one in self.mappers if one.registry is registry]
            try:
                registry.configure()
            except Exception as error:  # noqa: BLE001  # code in a mapper may raise anything
                failed = next((one for one in mappers if f"{one}'" in str(error)), mappers[0])
                reason = str(error).rpartition("Original exception was: ")[2].partition(" If this is")[0]
                self._failed.add(id(registry))
                self.unresolved.append((*self.place(failed), f"{failed.class_.__name__}: {reason}"))
                continue
            for mapper in mappers:
                for one in self.relationships_of(mapper):
                    if one.mapper.registry is not registry:
                        yield (
                            *self.place(mapper),
                            "entity",
                            None,
                            f"{one.entity.class_.__module__}.{one.entity.class_.__name__}",
                        )
                    if isinstance(one.secondary, Table):
                        yield *self.place(mapper), "table", one.secondary.schema, one.secondary.name


class _Statements:
    """Records the statements that models and migrations would send to a database."""

    def __init__(self, models: _Models) -> None:
        self._models = models
        # Place and text of each statement. A dictionary keeps the order.
        self.found: dict[tuple[str, int, str], None] = {}
        self._postgresql = _dialect("postgresql+asyncpg")

    def _record(self, place: Place, statement: object, dialect: Dialect) -> None:
        if isinstance(statement, str):
            self.found[*place, statement] = None
        elif isinstance(statement, ClauseElement):
            self.found[*place, str(statement.compile(dialect=dialect))] = None

    def create_tables(self) -> None:
        """Create the tables of each metadata, with everything that belongs to them, on both databases."""
        for metadata in {id(table.metadata): table.metadata for table in self._models.tables}.values():
            own = [table for table in self._models.tables if table.metadata is metadata]
            failed: dict[Place, list[str]] = {}
            for dialect in (self._postgresql, _dialect("sqlite")):

                def execute(
                    statement: Any,
                    dialect: Dialect = dialect,
                    own: list[Table] = own,
                    failed: dict[Place, list[str]] = failed,
                ) -> None:
                    element = getattr(statement, "element", None)
                    place = self._models.here("modules") or self._models.place(
                        element, getattr(element, "table", own[0])
                    )
                    try:
                        self._record(place if place[0] else self._models.place(own[0]), statement, dialect)
                    except SQLAlchemyError as error:  # a type of one database only
                        failed.setdefault(place, []).append(str(error))

                try:
                    metadata.create_all(Recorder(dialect, execute), own, checkfirst=False)
                except Exception as error:  # noqa: BLE001  # a listener may fail in any way
                    failed.setdefault(self._models.place(own[0]), []).append(f"{type(error).__name__}: {error}")
            self._models.problems += [(*place, reasons[0]) for place, reasons in failed.items() if len(reasons) > 1]

    def read_mappers(self) -> None:
        """Record the statements that select each entity and that set the defaults of its columns."""
        for mapper in self._models.mappers:
            place, table = self._models.place(mapper), mapper.local_table
            joins = [select(literal(1)).where(one.primaryjoin) for one in self._models.relationships_of(mapper)]
            defaults = [insert(table), update(table)] if isinstance(table, Table) else []
            for statement in (select(mapper), *joins, *defaults):
                with suppress(Exception):
                    self._record(place, statement, self._postgresql)

    def run_migrations(self) -> None:
        """Run every migration up and down. One that needs rows stops early; its text is still read (see tables.py)."""
        for file in sorted((self._models.root / "migrations").glob("*/**/*.py")):
            spec = importlib.util.spec_from_file_location(f"migration_{file.stem}", file)
            if spec is None or spec.loader is None:
                continue
            migration = importlib.util.module_from_spec(spec)

            def execute(statement: Any, file: Path = file) -> None:
                place = self._models.here("migrations") or (self._models.below(file), 0)
                with suppress(SQLAlchemyError):
                    self._record(place, statement, self._postgresql)

            try:
                spec.loader.exec_module(migration)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # a migration may fail in any way
                self._models.problems.append((self._models.below(file), 0, f"{type(error).__name__}: {error}"))
                continue
            for name in ("upgrade", "downgrade"):
                context = MigrationContext.configure(Recorder(self._postgresql, execute))  # type: ignore[arg-type]  # a stand-in
                with Operations.context(context), suppress(Exception, SystemExit):
                    getattr(migration, name)()


class _NoRows(IteratorResult[Any]):
    """The empty result of every statement."""

    rowcount = 0


class Recorder(MockConnection):
    """A connection that passes each statement to a function and returns no rows."""

    def __init__(self, dialect: Dialect, execute: Callable[[Any], None]) -> None:
        def answer(statement: Any, *_: object, **__: object) -> IteratorResult[Any]:
            execute(statement)
            return _NoRows(SimpleResultMetaData(["value"]), iter(()))

        super().__init__(dialect, answer)

    def exec_driver_sql(self, statement: str, *_: object, **__: object) -> Any:
        return self.execute(statement)  # type: ignore[arg-type]  # recorded as text

    def scalar(self, statement: Any, *_: object, **__: object) -> Any:
        return self.execute(statement).scalar()

    def scalars(self, statement: Any, *_: object, **__: object) -> Any:
        return self.execute(statement).scalars()

    def get_isolation_level(self) -> str:
        return "READ COMMITTED"

    def in_transaction(self) -> bool:
        return False

    @contextmanager
    def begin_nested(self) -> Iterator[None]:
        yield


@contextmanager
def _listening(target: Any, name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


def _dialect(name: str) -> Dialect:
    return make_url(f"{name}://").get_dialect()()


def _all_bases() -> list[type[DeclarativeBase] | type[DeclarativeBaseNoMeta]]:
    return [one for base in _BASES for one in base.__subclasses__()]


def _named_metadata() -> dict[int, set[str]]:
    """Return the global names of each metadata in all imported files, by its identity."""
    found: dict[int, set[str]] = {}
    for name, module in list(sys.modules.items()):
        for key, value in list(getattr(module, "__dict__", {}).items()):
            if isinstance(value, MetaData):
                found.setdefault(id(value), set()).add(f"{name}.{key}")
    return found
