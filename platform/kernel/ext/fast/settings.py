"""The settings that switch the faster ways off."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.settings import SettingsGroup


class FastSettings(SettingsGroup):
    """The switches of the faster ways."""

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    # Run statements directly on the driver where the ORM is not needed (driver.py).
    direct_statements: bool = True
    # Order the dependencies of a route once instead of at every request (endpoint.py).
    compiled_endpoints: bool = Field(True, validation_alias="APPLICATION_COMPILED_ENDPOINTS")
