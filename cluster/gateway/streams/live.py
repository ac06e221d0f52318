"""Live reads: long-poll, and server-sent events."""

import base64
import re
import time
from collections.abc import AsyncGenerator

import msgspec
from starlette.responses import Response

from actors.errors import ActorError, ClusterUnavailable
from cluster.gateway.actors.event_stream import COMMENT, HEARTBEAT, NO_HEADERS, EventStream
from cluster.gateway.hub import Hub
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem
from cluster.gateway.streams import json_mode
from cluster.gateway.streams.cursor import next_cursor
from cluster.gateway.streams.entries import Source
from cluster.gateway.streams.reading import Page
from cluster.gateway.streams.stream_state import CLOSED, GONE, Entry, View

_LINE = re.compile(rb"\r\n|\r|\n")


class LiveReader:
    """Waits at the tail of streams for those who read them."""

    def __init__(self, options: GatewayOptions, hub: Hub) -> None:
        self._options = options
        self._hub = hub

    def _check_open(self) -> None:
        if self._hub.closed:
            raise Problem(503, "ClusterUnavailable", "this silo is leaving; try again", headers={"Retry-After": "1"})

    async def poll(
        self, source: Source, view: View, position: int, cursor: str | None, *, wait: bool, until: float | None
    ) -> Response:
        """What is there, or comes within the timeout; 204 if nothing does.

        ``wait``: what is there does not count. ``until``: seconds since 1970 up to which the client may read.
        """
        self._check_open()
        page = await Page.read(source, view, position, limit=self._options.max_chunk)
        if not page.entries and not view.closed:
            page = await self._next_page(source, page, _left(self._options.long_poll_timeout, until))
        following = next_cursor(time.time(), cursor)
        if page.entries:
            return page.response(cache=not wait, cursor=following)
        headers = {**page.headers, "Cache-Control": "no-store"}
        if not page.closed:
            headers["Stream-Cursor"] = following
        return Response(status_code=204, headers=headers)

    async def _next_page(self, source: Source, page: Page, timeout: float) -> Page:
        async with source.tail(page.view, self._hub) as tail:
            try:
                while not (entries := tail.told(await tail.news(timeout))):
                    pass
                return _grown(page, entries)
            except (TimeoutError, ClusterUnavailable):
                return page
            except EOFError:
                raise Problem(404, "StreamNotFound", "the stream was deleted while it was read") from None

    def events(self, source: Source, view: View, position: int, cursor: str | None, *, until: float | None) -> Response:
        """Server-sent events: each batch of data in one event, followed by one that says where it ends.

        ``until``: seconds since 1970 up to which the client may read.
        """
        self._check_open()
        headers = NO_HEADERS if json_mode.is_text(view.content_type) else {"Stream-SSE-Data-Encoding": "base64"}
        lifetime = _left(self._options.event_stream_lifetime, until)
        return EventStream(self._events(source, view, position, cursor, lifetime), headers=headers)

    async def _events(
        self, source: Source, view: View, position: int, cursor: str | None, lifetime: float
    ) -> AsyncGenerator[bytes, None]:
        end = time.monotonic() + lifetime
        page = await Page.read(source, view, position, limit=self._options.max_chunk)
        yield _frames(page, cursor)
        while not page.at_tail and page.entries:
            page = await Page.read(source, view, page.end, limit=self._options.max_chunk)
            yield _frames(page, cursor)
        if not page.at_tail or page.closed:
            return
        try:
            async with source.tail(view, self._hub) as tail:
                while (left := end - time.monotonic()) > 0:
                    try:
                        entries = tail.told(await tail.news(min(left, HEARTBEAT)))
                    except TimeoutError:
                        yield COMMENT
                        continue
                    if entries:
                        page = _grown(page, entries)
                        yield _frames(page, cursor)
                        if page.closed:
                            return
        except (EOFError, ActorError):  # it is gone, or the silo leaves: what the reader has says how to go on
            return


def _left(most: float, until: float | None) -> float:
    """For how many seconds a client may wait."""
    return most if until is None else max(0.0, min(most, until - time.time()))


def _grown(page: Page, entries: list[Entry]) -> Page:
    """The page that follows, made of entries that came. Raises ``EOFError`` if the stream is gone."""
    data = [data for _, data, _ in entries if data]
    if not data and entries[0][2] == GONE:
        raise EOFError
    end = page.end + len(data)
    view = msgspec.structs.replace(page.view, next=end, closed=any(kind == CLOSED for _, _, kind in entries))
    return Page(view, page.end, end, data)


def _frames(page: Page, cursor: str | None) -> bytes:
    """The events for a page."""
    frames = b""
    if page.entries:
        body = page.body if json_mode.is_text(page.view.content_type) else base64.b64encode(page.body)
        frames = b"event: data\n" + b"".join(b"data:" + line + b"\n" for line in _LINE.split(body)) + b"\n"
    control: dict[str, object] = {"streamNextOffset": page.headers["Stream-Next-Offset"]}
    if page.closed:
        control |= {"streamClosed": True, "upToDate": True}
    else:
        control["streamCursor"] = next_cursor(time.time(), cursor)
        if page.at_tail:
            control["upToDate"] = True
    return frames + b"event: control\ndata:" + msgspec.json.encode(control) + b"\n\n"
