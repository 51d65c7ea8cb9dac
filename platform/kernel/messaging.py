"""Messages: what one module tells whoever cares."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Base of every message; it cannot be changed. It stands in its module's contract.

    `class ImageDeleted(Message, version=2)` is a breaking change of version 1.
    """

    model_config = ConfigDict(frozen=True)

    message_version: ClassVar[int] = 1

    def __init_subclass__(cls, version: int = 1, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.message_version = version
