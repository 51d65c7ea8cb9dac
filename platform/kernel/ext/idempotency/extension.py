"""The extension `idempotency`."""

from collections.abc import Iterator

from kernel.ext.idempotency.idempotent import check_routes, idempotent
from kernel.ext.idempotency.keys import IdempotencyKeys, IdempotencyTable
from kernel.ext.idempotency.settings import IdempotencySettings
from kernel.extension import ApplicationBuilder, Extension
from kernel.modules.discovery import DiscoveredModule, ModuleFiles
from kernel.modules.manifest import ModuleContext


class Idempotency(Extension):
    """Requests that a client may repeat with their key, without a second effect."""

    name = "idempotency"
    requires = ("recorder",)
    settings = (IdempotencySettings,)

    def check_module(self, files: ModuleFiles) -> Iterator[str]:
        router = files.get("router")
        uses = router is not None and any(value is idempotent for value in vars(router).values())
        if uses and files.table(IdempotencyTable) is None:
            yield (
                f"modules/{files.name}/router.py uses idempotent, but the module has no table for the keys: add "
                '`class Idempotency(IdempotencyTable, Base): __tablename__ = "idempotency"` to its models.py, and '
                "write the migration."
            )

    def configure(self, app: ApplicationBuilder) -> None:
        self._keep_seconds = app.settings.group(IdempotencySettings).keep_seconds
        app.route_rules.append(check_routes)

    def configure_module(self, module: DiscoveredModule, context: ModuleContext) -> None:
        if (table := module.files.table(IdempotencyTable)) is not None:
            context.provide(IdempotencyKeys(module.name, context.database, table, self._keep_seconds))
