"""What Alembic runs for every module's history; kernel.database.migrations gives it the connection and the tables."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, MetaData, TypeDecorator

connection: Connection = context.config.attributes["connection"]
metadata: MetaData = context.config.attributes["metadata"]


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write the column type behind a TypeDecorator, so that old migrations do not depend on today's code."""
    return f"sa.{item.impl_instance!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    # SQLite can undo DDL, too, given that BEGIN was really said (kernel.database.migrations does).
    transactional_ddl=True,
    # SQLite cannot alter a column; batch operations rebuild the table there and are plain ALTERs elsewhere.
    render_as_batch=True,
    compare_type=True,
    include_object=context.config.attributes["include_object"],
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
