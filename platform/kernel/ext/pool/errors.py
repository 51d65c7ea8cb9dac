"""The reasons for which the bounded pool gives no connection."""

from kernel.database.errors import DatabaseUnavailable, MigrationError


class LostConnection(DatabaseUnavailable):
    """The connection was gone when it was used: nothing that it was asked to do has been done, except to commit."""


class PoolShareExhausted(DatabaseUnavailable):
    """A module holds as many connections of a shared pool as it may: its requests wait, those of others do not."""

    public = "This part of the application has its share of the database in use"


class RoleError(MigrationError):
    """A module's PostgreSQL role that is missing, has no valid name or may not be taken; says what to do."""
