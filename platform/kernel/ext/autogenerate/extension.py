"""The extension `autogenerate`."""

from typing import TYPE_CHECKING

from kernel.extension import ApplicationBuilder, Extension

if TYPE_CHECKING:
    from kernel.ext.autogenerate.inspector import Inspector


def _inspector() -> "Inspector":
    from kernel.ext.autogenerate.inspector import Inspector  # noqa: PLC0415  # Alembic is slow to import

    return Inspector()


class Autogenerate(Extension):
    """Writes migrations from the models, and compares models with tables."""

    name = "autogenerate"

    def configure(self, app: ApplicationBuilder) -> None:
        app.table_inspector = _inspector
