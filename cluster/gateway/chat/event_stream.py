"""A response of server-sent events that can be broken off, so that its reader knows that it has not got all."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping

from starlette.types import Receive, Scope, Send

from cluster.gateway.actors.event_stream import EventStream


class BrokenOff(Exception):
    """The response ends here, without its end: the connection is closed in the middle."""


class BreakableStream(EventStream):
    """Sends frames as they come. ``BrokenOff`` from the generator closes the connection."""

    def __init__(self, frames: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(frames)
        self.headers.update(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with contextlib.suppress(BrokenOff):
            await super().__call__(scope, receive, send)


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg != "ASGI callable returned without completing response."


logging.getLogger("uvicorn.error").addFilter(_is_news)  # it closes the connection then, as is meant here
