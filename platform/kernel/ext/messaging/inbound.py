"""Run the handlers of this process, for messages of its own relay and for messages that other processes post.

The way of a message between processes: the publisher's relay claims the row of a subscriber whose module has an
address (`<NAME>_URL`), posts the message over the internal channel to `messages/<module>/<handler>`, and completes the
row when the other process answers 204. That process answers after the transaction of the handler, which writes the
inbox row, has committed. If the answer is lost, the message is posted again; the inbox row shows that it was handled.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from pydantic import BaseModel, Field
from sqlalchemy import Table
from starlette.exceptions import HTTPException
from structlog.contextvars import bound_contextvars

from kernel.database import Database
from kernel.ext.messaging.envelope import Envelope, traced
from kernel.ext.messaging.handlers import Handler, MessageContext
from kernel.ext.messaging.outages import Failed, Outage, is_outage
from kernel.tracing import Tracer
from kernel.web.problems import NotFound

_log = structlog.get_logger("kernel.ext.messaging")

# The service of the internal channel to which other processes post messages.
SERVICE = "messages"
# The status of the reply to a message that is newer than the code of the process to which it was posted.
NOT_YET = 409

# The share of a handler's time for which a posted message may wait for SQLite's one writer, and how long the
# publisher waits for the answer: less than its lease, which is 1.5 times as long as a handler may take.
_WAIT_FACTOR, _ANSWER_FACTOR = 0.2, 1.3


@dataclass(frozen=True)
class ModuleEndpoint:
    """The outbox, the inbox and the handlers of one module."""

    name: str
    database: Database
    handlers: Sequence[Handler]
    outbox: Table | None
    inbox: Table | None
    # Makes the context of a handler from the id of the message.
    context: Callable[[str], MessageContext]


class Posted(BaseModel):
    """A message as one process posts it to another."""

    envelope: Envelope
    # How long the handler may take by the publisher's settings.
    seconds: float = Field(gt=0, allow_inf_nan=False)

    @property
    def answered_within_seconds(self) -> float:
        """Return how long the publisher waits for the answer."""
        return self.seconds * _ANSWER_FACTOR


class NoSuchHandler(Exception):
    """A message was posted for a module or handler that is not in this process; says which."""


class NotYet(Exception):
    """A posted message has a newer version than this process can read; says which."""


class Inbound:
    """Runs the handlers of this process, each within a time limit."""

    def __init__(self, modules: Sequence[ModuleEndpoint], seconds: float, tracer: Tracer) -> None:
        """`seconds`: how long a handler may take."""
        self._modules = {module.name: module for module in modules}
        self._seconds, self._tracer = seconds, tracer
        # SQLite has one writer: waiting for it must not use up the time of a handler.
        self._turns = {
            module.name: asyncio.Semaphore(1) for module in modules if module.database.writer.dialect.name == "sqlite"
        }

    async def handle(self, handler: Handler, envelope: Envelope, *, is_first: bool = False) -> None:
        """Handle a message. Raises what the handler raises."""
        module = self._modules[handler.module]
        assert module.inbox is not None  # noqa: S101  # for the type checker: discovery has verified it
        context = module.context(envelope.id)
        await handler.handle(envelope, module.database, module.inbox, context, is_first=is_first)

    async def handle_in_time(
        self, handler: Handler, envelope: Envelope, *, is_first: bool = False, seconds: float | None = None
    ) -> None:
        """Handle a message within the time limit, or `seconds` if that is less.

        Raises Outage, Failed at the end of the time, and the errors of the handler.
        """
        allowed = self._seconds if seconds is None else min(seconds, self._seconds)
        limit = asyncio.timeout(allowed)
        try:
            async with limit:
                await self.handle(handler, envelope, is_first=is_first)
        except Exception as error:
            if limit.expired():
                why = f"it was not done within {allowed:g} s (MESSAGING_HANDLER_TIMEOUT_SECONDS)"
                raise Failed(why) from error
            if await is_outage(error, self._modules[handler.module].database):
                raise Outage(f"{type(error).__name__}: {error}") from error
            raise

    async def answer(self, module: str, function: str, body: bytes) -> None:
        """Answer a message that another process has posted, as the sender's `Outbound` reads the status.

        Raises HTTPException, and ValidationError for a body that is not a message.
        """
        try:
            await self.accept(module, function, Posted.model_validate_json(body))
        except NoSuchHandler as error:
            raise NotFound(str(error)) from None
        except NotYet as error:
            raise HTTPException(NOT_YET, str(error)) from None
        except Outage as error:
            raise HTTPException(503, str(error)) from None
        except Failed as error:
            raise HTTPException(500, str(error)) from None

    async def accept(self, module: str, function: str, posted: Posted) -> None:
        """Handle a message that another process has posted. Return when the transaction has committed.

        Without a `function` all handlers of the module that subscribe to the message handle it. Raises NoSuchHandler,
        NotYet, Outage and Failed.
        """
        handlers = self._addressed(module, function, posted.envelope)
        failures = [await self._attempt(one, posted) for one in handlers]
        found = [one for one in failures if one is not None]
        if found:
            raise next((one for one in found if not isinstance(one, Outage)), found[0])

    def _addressed(self, module: str, function: str, envelope: Envelope) -> list[Handler]:
        if module not in self._modules:
            raise NoSuchHandler(f"{module} does not run in this process.")
        handlers = self._modules[module].handlers
        if not function:
            chosen = [one for one in handlers if one.message.message_name() == envelope.name]
        else:
            chosen = [one for one in handlers if one.function.__name__ == function]
            if not chosen:
                raise NoSuchHandler(f"{module} has no handler {function} in this process.")
        for one in chosen:
            if envelope.name == one.message.message_name() and envelope.version > one.message.message_version:
                newest = one.message.message_version
                raise NotYet(f"{envelope.name} v{envelope.version} is newer than what runs here, v{newest}.")
        return chosen

    async def _attempt(self, handler: Handler, posted: Posted) -> Exception | None:
        envelope = posted.envelope
        with bound_contextvars(**envelope.context, message_id=envelope.id, module=handler.module):
            try:
                with traced(self._tracer, "process", envelope, handler.name):
                    async with self._turn(handler.module, posted.seconds * _WAIT_FACTOR):
                        # Never the first attempt: the answer to an earlier one may have been lost.
                        await self.handle_in_time(handler, envelope, seconds=posted.seconds)
            except (Outage, Failed) as error:
                _log.warning("posted message not handled", subscriber=handler.name, reason=str(error))
                return error
            except Exception as error:  # noqa: BLE001  # a handler may fail in any way
                reason = f"{type(error).__name__}: {error}"
                _log.warning("posted message not handled", subscriber=handler.name, reason=reason, exc_info=error)
                return Failed(reason)
        return None

    @asynccontextmanager
    async def _turn(self, module: str, seconds: float) -> AsyncIterator[None]:
        """Wait for SQLite's one writer. Raises Outage."""
        turn = self._turns.get(module)
        if turn is None:
            yield
            return
        try:
            async with asyncio.timeout(seconds):
                await turn.acquire()
        except TimeoutError:
            raise Outage(f"{module} handles other messages, one at a time on SQLite") from None
        try:
            yield
        finally:
            turn.release()
