"""Inspect the tables of a module for the core: before it migrates them, and for `kernel migrate --check`."""

from kernel.database.migrations import Comparison, History
from kernel.ext.autogenerate.comparison import differences, not_compared
from kernel.ext.autogenerate.renames import refuse_a_rename


class Inspector:
    """Compares the tables with the models, and refuses to create empty tables for a module that was renamed."""

    async def before_upgrade(self, history: History) -> None:
        """Raise MigrationError if the module was renamed but its tables were not."""
        await refuse_a_rename(history)

    async def compare(self, history: History) -> Comparison:
        """Compare the tables with the models."""
        return Comparison(await differences(history), not_compared(history))
