"""Answers that are given again, and what looks at an answer on its way to the caller."""

import json
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

Headers = list[tuple[bytes, bytes]]
Look = Callable[[Message], Awaitable[None]]

# Theirs is the moment, not the answer.
_MOMENTARY = (b"ratelimit", b"retry-after", b"age", b"date")


class Answer(NamedTuple):
    """An answer as the routes gave it: not compressed, and without what the layers around them add."""

    status: int
    headers: Headers
    body: bytes

    def heading(self) -> str:
        """The headers as text, to be kept."""
        kept = [(name, value) for name, value in self.headers if not name.startswith(_MOMENTARY)]
        return json.dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept])


def headers_from(heading: str) -> Headers:
    """The opposite of Answer.heading."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(heading)]


class Replay(Exception):
    """Raised by a dependency: the request ends here, with this answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"an answer is given again ({answer.status})")
        self.answer = answer


async def on_replay(_request: Request, replay: Replay) -> Response:
    """The handler of Replay."""
    response = Response(replay.answer.body, replay.answer.status)
    response.raw_headers = replay.answer.headers
    return response


def watch(scope: Scope, look: Look) -> None:
    """Have `look` awaited with each ASGI message of this request's answer, before that goes on (kernel.web.compression).

    It may change the message's headers.
    """
    scope.setdefault("kernel.looks", []).append(look)


class Recording:
    """A look that collects the answer and hands it to `finish` before its end is sent."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._status = 0
        self._headers: Headers = []
        self._body: bytearray | None = bytearray()
        self._is_over = False

    async def __call__(self, message: Message) -> None:
        """See `watch`."""
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
            is_empty = self._status in {204, 304} or (b"content-length", b"0") in self._headers
            await self.begin(message)
        else:
            is_empty = not message.get("more_body", False)
            if self._body is not None:
                self._body += message.get("body", b"")
            if self._body is not None and len(self._body) > self._most_bytes:
                self._body = None
        if is_empty:  # nothing more comes: to the caller, the headers of an empty answer are all of it
            self._is_over = True
            answer = None if self._body is None else Answer(self._status, self._headers, bytes(self._body))
            await self.finish(answer)

    async def begin(self, message: Message) -> None:
        """Its headers are about to be sent, and may be changed."""

    async def finish(self, answer: Answer | None) -> None:
        """It is complete; None if it was too large to be kept."""
        raise NotImplementedError
