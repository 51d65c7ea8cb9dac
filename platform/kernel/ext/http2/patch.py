"""A patch of httpcore2, which does not close the HTTP/2 stream of a call that ends early.

This file alone uses private names of httpcore2: `_response_closed`, `_events`, `_h2_state` and `_connection_error` of
`AsyncHTTP2Connection`. docs/decisions/0023-http2-connections.md describes the faults. A test in
`platform/tests/http2/test_patch.py` fails as soon as httpcore2 repairs one of them.
"""

from contextlib import suppress

import h2.errors
import h2.events
import h2.exceptions
from httpcore2 import AsyncHTTP2Connection

_response_closed = AsyncHTTP2Connection._response_closed


def apply() -> None:
    """Patch all HTTP/2 connections of this process: httpcore2 has no option for the class of its connections."""
    AsyncHTTP2Connection._response_closed = _close_stream  # type: ignore[method-assign]  # the purpose of this file


async def _close_stream(self: AsyncHTTP2Connection, stream_id: int) -> None:
    """Close a stream whose call has ended, also one that was cancelled, timed out or read in part only."""
    with suppress(h2.exceptions.ProtocolError):  # the connection is already closed
        # Return the window that the unread part of the answer occupies: the streams of a connection share it.
        for event in self._events.get(stream_id, ()):
            if isinstance(event, h2.events.DataReceived):
                self._h2_state.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
        stream = self._h2_state.streams.get(stream_id)
        if stream is not None and not stream.closed:
            self._h2_state.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)  # sent with the next frames
    await _response_closed(self, stream_id)
    if self._connection_error and not self._events:
        await self.aclose()  # the pool would count it until it expires
