"""Signed calls between the processes of one application, for extensions that exchange data with modules elsewhere.

A call has the path `<service>/<module>` or `<service>/<module>/<name>`. A service belongs to the extension that
registers it by `serve`, in its hook `assemble`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel


class ChannelError(Exception):
    """The connection ended without a reply; the call may have been executed."""


class ModuleUnreachable(ChannelError):
    """The other process did not accept the connection or did not reply in time."""


@dataclass(frozen=True)
class Reply:
    """The reply of another process."""

    status: int
    body: bytes
    # For a status from 400: the error, as the other process describes it, and its address.
    problem: str = ""


@dataclass(frozen=True)
class SharedModel:
    """A model that one process sends and another one reads. The channel compares both definitions."""

    name: str
    model: type[BaseModel]
    version: int
    # The oldest version that this process can read.
    oldest_version: int


# Takes the module, the name ("" if the path has none) and the body of a call. Returns the body of the reply, or None
# for 204. Raises pydantic's ValidationError for an invalid body, and HTTPException for any other error.
Answer = Callable[[str, str, bytes], Awaitable[bytes | None]]


class InternalChannel(Protocol):
    """Posts signed calls to modules in other processes, and answers theirs."""

    def serve(self, service: str, answer: Answer) -> None:
        """Answer the calls of a service. The signature of a call is verified before `answer` runs."""

    def describe(self, module: str, models: Sequence[SharedModel]) -> None:
        """Describe to other processes what a module of this process sends."""

    def connect(self, module: str, reads: Sequence[SharedModel] = ()) -> None:
        """State that this process uses a module in another process, and compare what it `reads` of that module."""

    async def post(self, service: str, module: str, name: str, body: bytes, seconds: float) -> Reply:
        """Post a call to a module in another process. Raises ChannelError."""


class ChannelSlot:
    """Holds the channel of an application, `kernel.get(ChannelSlot).channel`: None if no extension provides one."""

    channel: InternalChannel | None = None
