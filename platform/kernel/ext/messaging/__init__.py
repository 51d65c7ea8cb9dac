"""Messages between modules: an outbox and an inbox in each module's tables, a relay, and brokers."""

from typing import TYPE_CHECKING

from kernel.lazy import lazy_names

if TYPE_CHECKING:
    from kernel.ext.messaging.handlers import subscribe as subscribe
    from kernel.ext.messaging.message import Message as Message
    from kernel.ext.messaging.message import UnknownVersion as UnknownVersion
    from kernel.ext.messaging.message import upcast as upcast
    from kernel.ext.messaging.outbox import publish as publish
    from kernel.ext.messaging.tables import InboxTable as InboxTable
    from kernel.ext.messaging.tables import OutboxTable as OutboxTable

# Imported at first use, so that a module's models do not load its handlers' machinery.
_HOMES = {
    "InboxTable": "tables",
    "Message": "message",
    "OutboxTable": "tables",
    "UnknownVersion": "message",
    "publish": "outbox",
    "subscribe": "handlers",
    "upcast": "message",
}

__getattr__ = lazy_names(__name__, _HOMES)
