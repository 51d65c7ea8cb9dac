"""Write the types of columns into migrations as the database has them, in Alembic's own words.

A migration must not depend on the current code, so a type that a module defines is written as its type on each
database.
"""

import ast
from inspect import cleandoc
from typing import Any, Literal

from alembic.autogenerate import render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import AddColumnOp, UpgradeOps
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Dialect, MetaData, TypeDecorator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import CompileError
from sqlalchemy.types import TypeEngine


def _plain(dialect: Dialect) -> Dialect:
    """A dialect that returns types unchanged instead of replacing them by its own."""
    dialect.colspecs = {}
    return dialect


POSTGRESQL, SQLITE = (_plain(make_url(f"{name}://").get_dialect()()) for name in ("postgresql+asyncpg", "sqlite"))


def render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Write a module's own type as its underlying types, and leave all other types to Alembic."""
    if kind != "type":
        return False
    if isinstance(item, TypeDecorator) and not _is_sqlalchemys(item):
        item = plain(item)
    elif not _is_sqlalchemys(item):  # A type of a library, which the migration must import.
        context.imports.add(f"import {type(item).__module__}")
        return False
    elif not _is_postgresqls(item) or context.dialect is POSTGRESQL:
        return False
    # Alembic's text for the type, which is complete only if Alembic assumes PostgreSQL.
    alone = MigrationContext.configure(dialect=POSTGRESQL, opts={"target_metadata": MetaData()})
    column = AddColumnOp("table", Column("column", item))
    code = render_python_code(UpgradeOps([column]), render_item=render_item, migration_context=alone)
    calls = [node for node in ast.walk(ast.parse(cleandoc(code))) if isinstance(node, ast.Call)]
    rendered = next(ast.unparse(call.args[1]) for call in calls if ast.unparse(call.func) == "sa.Column")
    if "postgresql." in rendered:
        context.imports.add("from sqlalchemy.dialects import postgresql")
    return rendered


def plain(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type behind a decorator, with a variant if the types of PostgreSQL and SQLite differ."""
    here, there = type_on(type_, SQLITE), type_on(type_, POSTGRESQL)
    if repr(here) == repr(there) or _compiled(here, POSTGRESQL) == _compiled(there, POSTGRESQL):
        return here
    if _compiled(here, SQLITE) == _compiled(there, SQLITE):
        return there
    return here.with_variant(there, "postgresql")


def type_on(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """Return the type that a column has in a database."""
    while isinstance(type_, TypeDecorator) and not _is_sqlalchemys(type_):
        of_dialect = type_.dialect_impl(dialect)
        type_ = of_dialect.impl_instance if isinstance(of_dialect, type(type_)) else of_dialect
    return type_


def _is_sqlalchemys(type_: object) -> bool:
    return type(type_).__module__.startswith("sqlalchemy.")


def _is_postgresqls(type_: object) -> bool:
    return type(type_).__module__.startswith("sqlalchemy.dialects.postgresql")


def _compiled(type_: TypeEngine[Any], dialect: Dialect) -> str | None:
    try:
        return type_.compile(dialect=dialect)
    except CompileError:  # A type of the other database.
        return None
