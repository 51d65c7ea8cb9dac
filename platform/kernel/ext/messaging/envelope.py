"""A message as tables and brokers store it."""

import json
import secrets
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from structlog.contextvars import get_contextvars

from kernel.ext.messaging.message import Message
from kernel.tracing import Tracer

LONGEST_KEY = 200
# Bound to the log lines of the publisher and of the handler, so that a request can be followed.
_CARRIED = ("request_id", "traceparent")


class PublishError(Exception):
    """A message that cannot be published. Says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A message by name and version, never by class: its reader may run other code."""

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
        """Return the message under a new id, with the context of the current request.

        Raises PublishError for a message that does not survive JSON, and for a key that is too long for the table.
        """
        surroundings = get_contextvars()
        key = None if message.message_key is None else getattr(message, message.message_key)
        if key is not None and (len(str(key)) > LONGEST_KEY or "\0" in str(key)):
            why = f"{message.message_key}, which is its key, has more than {LONGEST_KEY} characters or a NUL"
            raise PublishError(f"{message.message_name()} cannot be published: {why}.")
        return cls(
            id=secrets.token_hex(16),
            name=message.message_name(),
            version=message.message_version,
            key=None if key is None else str(key),
            payload=_written(message),
            context={name: str(surroundings[name]) for name in _CARRIED if name in surroundings},
        )

    def to_json(self) -> bytes:
        """Return the envelope as a broker stores it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, body: bytes) -> "Envelope":
        """Read an envelope. Fields that a newer version added are ignored. Raises ValueError for anything else."""
        try:
            return _ENVELOPE.validate_json(body)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ValueError(f"not an envelope: {wrong}") from None


_ENVELOPE = TypeAdapter(Envelope)


def traced(
    tracer: Tracer, verb: Literal["process", "send"], envelope: Envelope, subscriber: str
) -> AbstractContextManager[None]:
    """Record the block as a part of the trace in which the message was published."""
    attributes = {
        "messaging.operation.name": verb,
        "messaging.destination.name": envelope.name,
        "subscriber": subscriber,
    }
    kind: Literal["consumer", "producer"] = "consumer" if verb == "process" else "producer"
    return tracer.span(f"{verb} {envelope.name}", kind, attributes, envelope.context)


def _written(message: Message) -> str:
    """Return the message as JSON. Raises PublishError if it would be read as another one, as one with a secret."""
    try:
        payload = message.model_dump_json(by_alias=True)
        if type(message).from_stored(message.message_version, payload) == message:
            return payload
        why = "the JSON is read as another message"
    except ValueError as error:  # pydantic's, also for what it cannot write
        why = str(error)
    raise PublishError(f"{message.message_name()} cannot be published, because it does not survive JSON: {why}")
