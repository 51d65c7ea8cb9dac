"""A message on its way: what the tables and the brokers carry."""

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
# What of the caller's surroundings goes along: one request can be followed through all that it sets off.
_CARRIED = ("request_id", "traceparent")


class PublishError(Exception):
    """A message that cannot be published here; says what to do."""


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
        """The message under a new id, with what is to be carried of the current request.

        Raises PublishError for a message that nobody could read again as it was, and for a key that no table holds.
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
        """As a broker carries it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, body: bytes) -> "Envelope":
        """Read an envelope. Fields that a newer version added are ignored. Raises ValueError for anything else."""
        try:
            return _ENVELOPE.validate_json(body)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ValueError(f"not a message of ours: {wrong}") from None


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
    """The message as JSON that can be read again: a secret is masked, NaN is null, a subclass in a field is cut."""
    try:
        payload = message.model_dump_json(by_alias=True)
        if type(message).from_stored(message.message_version, payload) == message:
            return payload
        why = "it is another when it is read again"
    except ValueError as error:  # pydantic's, also for what it cannot write
        why = str(error)
    raise PublishError(f"{message.message_name()} cannot be published, for nobody could read it as it is: {why}")
