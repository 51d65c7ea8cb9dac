"""Answers that are kept and given again, to who repeats a request or asks the same."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from fastapi import Request, Response
from starlette.types import Message, Scope, Send

from kernel.web.context import find_context


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as the application gives it: what CORS, compression and the shell add is not in it."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def adding(self, *headers: tuple[bytes, bytes]) -> "Answer":
        """The same with these headers too."""
        return replace(self, headers=(*self.headers, *headers))


class Replay(Exception):
    """Raised by a dependency to answer with what is kept, and not to run the handler."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"a kept answer, {answer.status}")
        self.answer = answer


async def on_replay(_request: Request, replay: Replay) -> Response:
    """The kept answer."""
    response = Response(replay.answer.body, replay.answer.status)
    response.raw_headers = list(replay.answer.headers)
    return response


class Keeper:
    """Collects the answer of a request, whatever it is, and hands it over before its last part is sent.

    `keep` gets None for an answer that is larger than `max_bytes`. What it raises, the caller gets as an error.
    """

    def __init__(self, scope: Scope, keep: Callable[[Answer | None], Awaitable[None]], max_bytes: int) -> None:
        self._keep = keep
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._parts: list[bytes] = []
        self._size = 0
        context = find_context(scope)
        assert context is not None  # noqa: S101  # dependencies run inside the kernel's outermost layer
        context.values[Keeper] = self

    async def __call__(self, message: Message) -> None:
        """Asked with each part of the answer before it goes on its way."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self._size += len(part)
            if self._size <= self._max_bytes:
                self._parts.append(bytes(part))
            if not message.get("more_body", False):
                is_whole = self._size <= self._max_bytes
                await self._keep(Answer(self._status, self._headers, b"".join(self._parts)) if is_whole else None)


def kept(scope: Scope, send: Send) -> Send:
    """`send`, with a look of the request's keeper at each part first, if it has one."""
    context = find_context(scope)
    keeper: Keeper | None = None if context is None else context.values.get(Keeper)
    if keeper is None:
        return send

    async def send_kept(message: Message) -> None:
        await keeper(message)
        await send(message)

    return send_kept
