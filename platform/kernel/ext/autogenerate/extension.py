"""The extension `autogenerate`."""

from typing import TYPE_CHECKING

from kernel.extension import ApplicationBuilder, Extension

if TYPE_CHECKING:
    from kernel.ext.autogenerate.comparison import FullComparison


def _full_comparison() -> "FullComparison":
    from kernel.ext.autogenerate.comparison import FullComparison  # noqa: PLC0415  # Alembic is slow to import

    return FullComparison()


class Autogenerate(Extension):
    """Migrations and comparisons that see what plain Alembic does not."""

    name = "autogenerate"

    def configure(self, app: ApplicationBuilder) -> None:
        app.comparison = _full_comparison
