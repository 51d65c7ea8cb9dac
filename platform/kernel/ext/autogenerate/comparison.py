"""Compare the models of a module with its tables, and write the migration that turns the tables into the models."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from sqlalchemy import Connection, MetaData

from kernel.database.errors import MigrationError
from kernel.database.migrations import History
from kernel.database.revisions import read_history
from kernel.ext.autogenerate import constraints, enums
from kernel.ext.autogenerate.rendering import render_item

_PLUGINS = (constraints.PLUGIN, enums.PLUGIN)
for _module in (constraints, enums):
    Plugin.setup_plugin_from_module(_module, _module.PLUGIN)


async def differences(history: History) -> list[str]:
    """Return how the tables differ from the models, in Alembic's words; an empty list if they agree."""
    async with history.connected() as run:
        return [str(change) for change in await run(lambda connection: _compare(connection, history.metadata))]


def not_compared(history: History) -> list[str]:
    """Return what `differences` cannot see in this database, in words."""
    if history.placement.schema is not None or not (names := sorted(enums.enums_of(history.metadata))):
        return []
    return [f"the labels of {', '.join(names)}, as SQLite has no enum types: compare on PostgreSQL (DATABASE_URL)"]


async def write(history: History, message: str) -> Path:
    """Write the revision that turns the tables into the models. Raises MigrationError if nothing differs."""
    if missing := await history.pending() if history.exists else []:
        raise MigrationError(f"{history.module} lacks migration {missing[0]}: run `kernel migrate` first")
    history.folder.mkdir(parents=True, exist_ok=True)
    numbers = [one.number for one in read_history(history.folder).values() if one is not None]
    number = max((int(one) for one in numbers if one.isdecimal()), default=0) + 1

    def revision(connection: Connection) -> Any:
        if not _compare(connection, history.metadata):
            but = "".join(f". Not compared: {one}" for one in not_compared(history))
            raise MigrationError(
                f"the tables of {history.module} are as its models say: there is nothing to migrate{but}"
            )
        options = _options(history.metadata)
        named = {"autogenerate": True, "rev_id": f"{number:04d}"}
        with _without_needless_warnings():
            return history.run_alembic(connection, command.revision, message, options=options, **named)

    async with history.alone(), history.connected(changes=True) as run:
        written = await run(revision)
    return Path(written.path)


def _compare(connection: Connection, metadata: MetaData) -> list[Any]:
    context = MigrationContext.configure(connection, opts=_options(metadata))
    with _without_needless_warnings():
        return list(compare_metadata(context, metadata))


def _options(metadata: MetaData) -> dict[str, Any]:
    """Return the options with which Alembic compares, and writes the differences."""
    indexes = (index for table in metadata.tables.values() for index in table.indexes)
    # Migrations create these indexes by hand, and Alembic cannot compare them.
    by_hand = {index.name for index in indexes if index.info.get("by_hand")}

    def is_compared(_item: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        return kind != "index" or name not in by_hand

    return {
        "target_metadata": metadata,
        "include_object": is_compared,
        "compare_type": True,
        "compare_server_default": True,
        "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname", *_PLUGINS],
        "render_item": render_item,
        # SQLite cannot alter a column; batch operations rebuild the table there and are plain ALTERs elsewhere.
        "render_as_batch": True,
    }


@contextmanager
def _without_needless_warnings() -> Iterator[None]:
    """Suppress Alembic's warnings about indexes for PostgreSQL only, and about computed columns, which we compare."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computed default on .* cannot be modified")
        warnings.filterwarnings("ignore", "autogenerate skipping metadata-specified expression-based index")
        yield
