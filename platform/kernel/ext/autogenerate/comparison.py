"""Options of Alembic with which it compares and writes more."""

from collections.abc import Mapping
from typing import Any

from alembic.runtime.plugins import Plugin
from sqlalchemy import MetaData

from kernel.ext.autogenerate import constraints, enums
from kernel.ext.autogenerate.rendering import render_item

_PLUGINS = (constraints.PLUGIN, enums.PLUGIN)
for _module in (constraints, enums):
    Plugin.setup_plugin_from_module(_module, _module.PLUGIN)


class FullComparison:
    """Compares check constraints and enum types, and writes a module's own types as the types behind them."""

    def options(self) -> Mapping[str, Any]:
        """Return the options for Alembic's migration context."""
        return {
            "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname", *_PLUGINS],
            "render_item": render_item,
        }

    def not_compared(self, metadata: MetaData, *, on_postgresql: bool) -> list[str]:
        """Return what the comparison cannot see in this database, in words."""
        if on_postgresql or not (names := sorted(enums.enums_of(metadata))):
            return []
        return [f"the labels of {', '.join(names)}, as SQLite has no enum types: compare on PostgreSQL (DATABASE_URL)"]
