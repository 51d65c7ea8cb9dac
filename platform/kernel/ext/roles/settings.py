"""The settings of roles."""

from pydantic_settings import SettingsConfigDict

from kernel.settings import SettingsGroup


class RoleSettings(SettingsGroup):
    """Settings of the PostgreSQL roles of modules."""

    model_config = SettingsConfigDict(env_prefix="DATABASE_")

    # PostgreSQL: each module's sessions use a role with rights in the module's schema only. `kernel roles --apply`
    # creates the roles; in local the start does.
    role_per_module: bool = False
    # The prefix of the roles' names, which must be unique on the server. The default is the database's name and a dot.
    role_prefix: str | None = None
