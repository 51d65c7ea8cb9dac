"""The script that Alembic runs for each module. kernel.database.migrations passes the connection and the tables."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transaction_per_migration=True,
    # SQLite can undo DDL, too, given that BEGIN was really said (kernel.database.migrations does).
    transactional_ddl=True,
    **context.config.attributes["options"],
)
with context.begin_transaction():
    context.run_migrations()
