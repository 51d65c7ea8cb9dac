"""Messages: what a module publishes to its subscribers."""

import json
import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from kernel.ext.channel.channel import SharedModel

Payload = dict[str, Any]
Upcast = Callable[[Payload], Payload]
Function = TypeVar("Function", bound=Upcast)

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class UnknownVersion(Exception):
    """A stored message has a version that this code cannot read. Says which, and what to do."""


class Message(BaseModel):
    """Base of every message. Messages are immutable and are defined in the contract of their module.

    `class ImageDeleted(Message, version=2)` is a breaking change of version 1; `@upcast` reads stored messages.
    `class ImageMoved(Message, key="image_id")`: messages of one image are delivered in commit order.
    """

    model_config = ConfigDict(frozen=True)

    message_version: ClassVar[int] = 1
    # The field whose value is the key of the order.
    message_key: ClassVar[str | None] = None
    # Convert a payload of each older version to the next version.
    upcasts: ClassVar[dict[int, Upcast]] = {}

    def __init_subclass__(cls, version: int | None = None, key: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if version is not None and (type(version) is not int or version < 1):
            raise TypeError(f"the version of {cls.__name__} must be a whole number from 1, not {version!r}")
        cls.message_version = cls.message_version if version is None else version
        cls.message_key = cls.message_key if key is None else key
        cls.upcasts = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if cls.message_key is not None and cls.message_key not in cls.model_fields:
            raise TypeError(f"{cls.__name__} has no field {cls.message_key}, which is to be its key")

    @classmethod
    def message_name(cls) -> str:
        """Return the name under which it is sent: `images.image_deleted`, for any file of the contract."""
        package, _, rest = cls.__module__.partition(".")
        owner = rest.partition(".")[0] if package == "modules" else package
        return f"{owner}.{snake_case(cls.__name__)}"

    @classmethod
    def from_stored(cls, version: int, payload: str) -> "Message":
        """Read a stored message. Raises UnknownVersion and pydantic.ValidationError."""
        if version == cls.message_version:
            return cls.model_validate_json(payload)
        values = json.loads(payload)
        for step in range(version, cls.message_version):
            if step not in cls.upcasts:
                raise UnknownVersion(
                    f"{cls.message_name()} v{version} cannot be read as v{cls.message_version}: "
                    f"write `@upcast({cls.__name__}, from_version={step})` beside the message"
                )
            values = cls.upcasts[step](values)
        if version > cls.message_version:
            raise UnknownVersion(f"{cls.message_name()} v{version} is newer than what runs here, {cls.message_version}")
        # As JSON: a strict model reads a date from a text there, and an upcast may have put in a date.
        return cls.model_validate_json(to_json(values))

    @classmethod
    def oldest_readable_version(cls) -> int:
        """Return the oldest version from which upcasts lead to the current one without a gap."""
        oldest = cls.message_version
        while oldest - 1 in cls.upcasts:
            oldest -= 1
        return oldest

    @classmethod
    def as_shared_model(cls) -> SharedModel:
        """Return what processes compare of this message."""
        return SharedModel(cls.__name__, cls, cls.message_version, cls.oldest_readable_version())

    @classmethod
    def missing_upcast(cls) -> str | None:
        """Return which upcast is missing; None if rows of every older version can be read."""
        oldest = cls.oldest_readable_version()
        if oldest == 1:
            return None
        return (
            f"{cls.__name__} is version {cls.message_version}, but stored messages of version {oldest - 1} cannot be "
            f"read: write `@upcast({cls.__name__}, from_version={oldest - 1})` beside the message"
        )


def upcast(message: type[Message], *, from_version: int) -> Callable[[Function], Function]:
    """Mark a function that converts the payload of one version to the next. Define it beside the message."""
    if not 1 <= from_version < message.message_version:
        raise ValueError(
            f"{message.__name__} is version {message.message_version}: there is nothing to read from {from_version}"
        )

    def mark(function: Function) -> Function:
        message.upcasts[from_version] = function
        return function

    return mark


def snake_case(name: str) -> str:
    """Return `image_deleted` for `ImageDeleted`."""
    return _WORDS.sub("_", name).lower()
