"""Deliver messages to modules in other processes over the internal channel."""

from kernel.ext.channel.channel import ChannelError, InternalChannel, ModuleUnreachable
from kernel.ext.messaging.inbound import NOT_YET, SERVICE, Posted
from kernel.ext.messaging.outages import Failed, Outage
from kernel.ext.messaging.outbox import Delivery
from kernel.http_client import OUTAGES


class Outbound:
    """Posts messages to the handlers of other processes."""

    def __init__(self, channel: InternalChannel, handler_seconds: float) -> None:
        self._channel, self._handler_seconds = channel, handler_seconds
        # By module: why the last delivery met an outage; None if it was answered.
        self.outages: dict[str, str | None] = {}

    async def post(self, module: str, function: str, delivery: Delivery) -> None:
        """Let one handler of a module, or all of them (""), handle a message. Return when that is done.

        Raises Outage and Failed.
        """
        self.outages[module] = None
        try:
            await self._post(module, function, delivery)
        except Outage as error:
            self.outages[module] = str(error)
            raise

    async def _post(self, module: str, function: str, delivery: Delivery) -> None:
        posted = Posted(envelope=delivery.envelope, seconds=self._handler_seconds)
        body = posted.model_dump_json().encode()
        try:
            reply = await self._channel.post(SERVICE, module, function, body, posted.answered_within_seconds)
        except ModuleUnreachable as error:
            raise Outage(str(error)) from error
        except ChannelError as error:
            # The message may have ended the process that handles it, and must not be posted for ever.
            raise Failed(str(error)) from error
        if reply.status != 204:
            kind = Outage if reply.status in (*OUTAGES, NOT_YET) else Failed
            raise kind(reply.problem or f"{module} answered with {reply.status}")
