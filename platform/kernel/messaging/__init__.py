"""Messages between modules: kept with the data they tell of, delivered after the commit, effective once."""

from kernel.messaging.message import Message, UnknownVersion, upcast
from kernel.messaging.tables import InboxTable, OutboxTable

__all__ = ["InboxTable", "Message", "OutboxTable", "UnknownVersion", "upcast"]
