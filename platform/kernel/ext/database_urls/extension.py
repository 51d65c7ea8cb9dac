"""The extension `database_urls`."""

from collections.abc import Collection, Iterator, Sequence

from pydantic import SecretStr

from kernel.ext.database_urls.parameters import check_parameters
from kernel.extension import Extension
from kernel.settings import DatabaseConfig, Fault, ModuleSettings, SettingsGroup, Sources

_WITH_DATABASE = (DatabaseConfig, ModuleSettings)
_FIELDS = ("url", "read_url", "direct_url")


class DatabaseUrls(Extension):
    """Verifies the parameters of database URLs, and that their certificates can be read."""

    name = "database_urls"

    def check_settings(
        self, sources: Sources, groups: Sequence[SettingsGroup], elsewhere: Collection[str]
    ) -> Iterator[Fault]:
        for group in groups:
            of_database = "database_" if isinstance(group, ModuleSettings) else ""
            fields = [f"{of_database}{name}" for name in _FIELDS] if isinstance(group, _WITH_DATABASE) else []
            for (variable, value), field in zip(group.values(), type(group).model_fields, strict=True):
                if field in fields and isinstance(value, SecretStr):
                    try:
                        check_parameters(value.get_secret_value())
                    except ValueError as error:
                        yield Fault(variable, str(error))
