"""Errors of the bounded pool."""

from kernel.database.errors import DatabaseUnavailable, MigrationError


class LostConnection(DatabaseUnavailable):
    """The connection was lost when it was used; nothing was executed, except possibly a COMMIT."""


class PoolShareExhausted(DatabaseUnavailable):
    """A module holds its whole share of a pool: its own requests wait, those of other modules do not."""

    public = "This part of the application has its share of the database in use"


class RoleError(MigrationError):
    """A module's PostgreSQL role is missing, has an invalid name or may not be taken.

    The message contains the remedy.
    """
