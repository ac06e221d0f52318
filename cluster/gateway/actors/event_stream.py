"""Server-sent events as an ASGI response that costs little while nothing happens."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors.errors import ActorError
from cluster.gateway.json_values import UNREADABLE, to_json
from cluster.gateway.problems import as_problem

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent: proxies end what is silent for longer."""

COMMENT: Final = b":\n\n"

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-cache, no-transform",
    "Content-Type": "text/event-stream",
    "X-Accel-Buffering": "no",
}
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class EventStream(Response):
    """Sends frames as they come. When the client leaves, the generator is closed."""

    def __init__(self, frames: AsyncGenerator[bytes, None], *, headers: Mapping[str, str] = NO_HEADERS) -> None:
        super().__init__(headers={**HEADERS, **headers})
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        del self.raw_headers
        task = asyncio.current_task()
        assert task is not None
        watching = asyncio.create_task(_cancel_at_the_end(task, receive))
        try:
            try:
                async for frame in self._frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            finally:
                await self._frames.aclose()
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            if not watching.done():
                raise
            task.uncancel()  # the client has left, and nobody else asks for an end
        finally:
            watching.cancel()


async def _cancel_at_the_end(task: "asyncio.Task[object]", receive: Receive) -> None:
    """Cancel a task when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def items_response(items: AsyncIterator[object]) -> Response:
    """The items of one call, as they come, then "end", or the reason why there is none as "problem".

    Raises what is wrong with the call if that is known before anything is sent.
    """
    first = asyncio.ensure_future(anext(items))
    try:
        await asyncio.wait({first}, timeout=HEARTBEAT)
        if first.done() and not isinstance(first.exception(), StopAsyncIteration | None):
            first.result()
    except BaseException:
        first.cancel()
        raise
    return EventStream(_frames(first, items))


async def _frames(coming: "asyncio.Future[object]", items: AsyncIterator[object]) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            await asyncio.wait({coming}, timeout=HEARTBEAT)
            if not coming.done():
                yield COMMENT
                continue
            yield b"data: %s\n\n" % _json(coming.result())
            coming = asyncio.ensure_future(anext(items))
    except StopAsyncIteration:
        yield b"event: end\ndata: null\n\n"
    except ActorError as error:
        yield b"event: problem\ndata: %s\n\n" % to_json(as_problem(error).details)
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await items.aclose()  # type: ignore[attr-defined]  # an async generator: tells the actor that nobody reads


def _json(value: object) -> bytes:
    try:
        return to_json(value)
    except ValueError:
        return to_json(UNREADABLE)
