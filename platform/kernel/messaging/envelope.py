"""A message on its way: what the tables and the brokers carry."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from structlog.contextvars import get_contextvars

from kernel.messaging.message import Message

# What of the caller's surroundings goes along: one request can be followed through all that it sets off.
_CARRIED = ("request_id", "traceparent")


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A message by name and version, never by class: who reads it may run other code."""

    id: str
    name: str
    version: int
    # Messages of one key arrive in the order in which they were committed.
    key: str | None
    # The message as JSON.
    payload: str
    context: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, message: Message) -> "Envelope":
        """The message under a new id, with what is to be carried of the current request."""
        surroundings = get_contextvars()
        key = None if message.message_key is None else getattr(message, message.message_key)
        return cls(
            id=secrets.token_hex(16),
            name=message.message_name(),
            version=message.message_version,
            key=None if key is None else str(key),
            payload=message.model_dump_json(),
            context={name: str(surroundings[name]) for name in _CARRIED if name in surroundings},
        )

    def to_json(self) -> bytes:
        """As a broker carries it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, body: bytes) -> "Envelope":
        """Raises ValueError for what is no envelope."""
        try:
            values: dict[str, Any] = json.loads(body)
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a message of ours: {error}") from None
