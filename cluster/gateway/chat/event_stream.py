"""A response of server-sent events that can be broken off, so that its reader knows that it has not got all."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HEARTBEAT: Final = b":\n\n"

_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class BrokenOff(Exception):
    """The response ends here, without its end: the connection is closed in the middle."""


class EventStream(Response):
    """Server-sent events as they come. The generator is closed at once when the client goes."""

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        async with contextlib.aclosing(self._events):
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                leaving.cancel()
                await asyncio.wait({sending, leaving})
            if not sending.cancelled():
                with contextlib.suppress(BrokenOff):
                    sending.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for frames in self._events:
            await send({"type": "http.response.body", "body": frames, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_no_surprise(record: logging.LogRecord) -> bool:
    return record.msg != "ASGI callable returned without completing response."


logging.getLogger("uvicorn.error").addFilter(_is_no_surprise)  # it closes the connection then, as is meant here
