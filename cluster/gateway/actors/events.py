"""The live tail of a channel as server-sent events. ``id:`` is the offset: ``EventSource`` resumes by itself."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from actors import actor_ref
from actors.errors import ActorError, ClusterUnavailable, OffsetGone
from cluster.gateway.actors.event_stream import COMMENT, HEARTBEAT, EventStream
from cluster.gateway.actors.paths import flag_of, offset_of
from cluster.gateway.hub import Follower, Hub
from cluster.gateway.json_values import to_json
from cluster.gateway.problems import as_problem, bad_request

_RETRY: Final = b"retry: 1000\n\n"


class ChannelEvents:
    """Answers ``GET /v1/actors/{address}/events``."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def respond(self, request: Request, address: str, expires: float | None) -> Response:
        """The events of ``?channel=`` behind ``Last-Event-ID``, or ``?after=``; until the time ``expires``.

        ``?compact=1``: what is there already comes in few pieces.
        """
        try:
            channel = actor_ref(address).channel(request.query_params.get("channel", "output"))
        except ValueError as error:
            raise bad_request(str(error)) from None
        after, resumed = _after(request)
        compact = flag_of(request.query_params, "compact")
        follower, lost = self._hub.follow(channel, after, compact=compact), b""
        try:
            await follower.open()
        except OffsetGone as error:
            if not resumed:
                raise
            follower, lost = self._hub.follow(channel, None, compact=compact), _gap(error.first)
            await follower.open()
        if follower.ended or (resumed and follower.reborn):
            return Response(status_code=204, headers={"Cache-Control": "no-store"})  # EventSource comes no more
        if follower.position > follower.end:
            raise bad_request(f"the offset {after} is beyond the tail of the channel", name="OffsetBeyondTail")
        return EventStream(_frames(follower, lost, expires))


def _after(request: Request) -> tuple[int | None, bool]:
    """Behind which offset to begin, and whether a reader that had a stream before says so by itself."""
    header = request.headers.get("last-event-id", "")
    if header:  # an empty one is that of a reader that has got nothing yet
        return offset_of(header, "Last-Event-ID"), True
    for name in ("lastEventId", "after"):
        text = request.query_params.get(name, "")
        if text:
            return offset_of(text, name), False
    return None, False


def _gap(first: int) -> bytes:
    """Tells a reader to discard all that it has: what followed is not kept, and what is kept begins at ``first``."""
    return b"id: %d\nevent: reset\ndata: 0\n\n" % (first - 1)


async def _frames(follower: Follower, lost: bytes, expires: float | None) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    end = float("inf") if expires is None else loop.time() + expires - time.time()
    yield _RETRY + lost
    async with follower:
        while (left := end - loop.time()) > 0:
            try:
                entries = await follower.entries(min(left, HEARTBEAT))
            except TimeoutError:
                yield COMMENT
            except (EOFError, ClusterUnavailable):
                return  # the reader comes again, here or elsewhere, and goes on from there
            except OffsetGone as error:
                yield _gap(error.first)
                return
            except ActorError as error:
                yield b"event: problem\ndata: %s\n\n" % to_json(as_problem(error).details)
                return
            else:
                yield b"".join([entry.sse for entry in entries])
