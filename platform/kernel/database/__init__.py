"""Databases: engines and sessions, repositories, and the columns that many tables share."""

from kernel.database.errors import DatabaseUnavailable, ReadOnlySession, StaleVersion
from kernel.database.models import BigId, Timestamps, UtcDateTime, Versioned, new_metadata, utc_now
from kernel.database.pool import AsyncDBPool, Database, Placement, after_commit
from kernel.database.repository import BaseRepository
from kernel.database.server_session import place_of

__all__ = [
    "AsyncDBPool",
    "BaseRepository",
    "BigId",
    "Database",
    "DatabaseUnavailable",
    "Placement",
    "ReadOnlySession",
    "StaleVersion",
    "Timestamps",
    "UtcDateTime",
    "Versioned",
    "after_commit",
    "new_metadata",
    "place_of",
    "utc_now",
]
