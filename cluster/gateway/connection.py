"""One HTTP connection: uvicorn's on httptools, with an end to everything that a client may do to it."""

import asyncio
import ipaddress
import re
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem, bad_request
from cluster.gateway.stalls import StallGuard
from cluster.gateway.wire import last_words

_MOST_HEADERS: Final = 256
_MOST_PIPELINED: Final = 16
_LINGER: Final = 5.0
"""Seconds for a client that was refused to stop sending: who is cut off while it sends does not see the answer."""

_HOST: Final = re.compile(rb"(\[(?P<ip>[0-9A-Fa-f:.]+)\]|[\w.~%!$&'()*+,;=-]*)(:(?P<port>[0-9]{0,5}))?", re.ASCII)

_Wait: TypeAlias = Literal["", "head", "body"]


class ServerConfig(uvicorn.Config):
    """The configuration of the server, with the limits that its connections keep."""

    gateway: GatewayOptions


# uvicorn's connections have three deques, of 700 bytes each, for what an idle one never needs.


class _Pipeline(list[Any]):
    """The requests that wait on a connection, as uvicorn handles them: at most ``_MOST_PIPELINED``."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        """Add the newest one."""
        self.insert(0, item)


def _slim(event: asyncio.Event) -> None:
    """Let an event that was just made keep the one or two who wait for it in a list."""
    event._waiters = []  # type: ignore[assignment]


class HttpConnection(HttpToolsProtocol):
    """Refuses with problem details: what is no HTTP, heads over a limit, heads and bodies that come too slowly.

    A bad request behind a good one does not harm the good one's answer, which then is the last.
    """

    # Not in the instance's dict: that has a shape that all connections share as long as it has no more than 30 keys.
    __slots__ = (
        "_begun", "_body_size", "_head_size", "_idle_since", "_in_head", "_limits", "_refused", "_size", "_stalls",
        "_timer", "_waits",
    )  # fmt: skip

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.pipeline = _Pipeline()  # type: ignore[assignment]
        self._limits = config.gateway
        self._stalls: StallGuard | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits: _Wait = ""
        self._in_head = True
        self._begun = False
        self._head_size = 0  # of what came in several pieces
        self._size = 0  # of the URL and the headers
        self._body_size = 0
        self._idle_since = 0.0
        self._refused = False

    # -- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        if len(self.connections) >= self._limits.max_connections:
            self.transport = transport
            self._refused = True
            detail = "this silo has as many connections as it may; try another, or later"
            transport.write(last_words(Problem(503, "ClusterUnavailable", detail, headers={"Retry-After": "1"})))
            transport.close()
            return
        super().connection_made(transport)
        _slim(self.flow._is_writable_event)
        self._stalls = StallGuard(transport, patience=self._limits.stall_timeout, rate=self._limits.min_rate)
        self._wait("head")

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._wait("")
        self._unset_keepalive_if_required()
        if self._stalls is not None:
            self._stalls.ended()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        super().pause_writing()
        if self._stalls is not None:
            self._stalls.paused()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        super().resume_writing()
        if self._stalls is not None:
            self._stalls.ended()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._refused:
            return
        in_head = self._begun
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
            return
        except httptools.HttpParserError as error:
            found = error.__context__
            self._refuse(
                found if isinstance(found, Problem) else bad_request(f"this is no request of HTTP/1.1: {error}")
            )
            return
        if in_head and self._begun:
            self._head_size += len(data)
            if self._head_size > self._limits.max_head:
                self._refuse(self._head_too_large())
                return
        self._wait(self._next_wait())

    def _upgrade(self) -> None:
        if not self._should_upgrade():  # to something that is not spoken here: the answer is an ordinary one
            self.cycle.keep_alive = False
            self._refused = True
            self._wait("")
        elif self._is_answering or not self.url.isascii():
            self._refuse(bad_request("the handshake of a WebSocket comes alone, and its URL is ASCII"))
        elif self._size > self._limits.max_head or len(self.headers) > _MOST_HEADERS:
            self._refuse(self._head_too_large())
        else:
            self._wait("")
            self.handle_websocket_upgrade()

    # -- waiting for the client -------------------------------------------------------------------------------------

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _next_wait(self) -> _Wait:
        if not self._in_head:
            return "body"
        return "" if self._is_answering else "head"

    def _wait(self, what: _Wait) -> None:
        if what == self._waits:
            return
        self._waits = what
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if what == "head":
            self._timer = self.loop.call_later(self._limits.head_timeout, self._on_slow_head)
        elif what == "body":
            self._watch_body()

    def _on_slow_head(self) -> None:
        if not self._begun:
            self.transport.close()
            return
        detail = f"the head of a request has {self._limits.head_timeout:g} seconds to come"
        self._refuse(Problem(408, "RequestTimeout", detail))

    def _watch_body(self) -> None:
        self._body_size = 0
        self._timer = self.loop.call_later(self._limits.stall_timeout, self._look_at_body)

    def _look_at_body(self) -> None:
        enough = self._limits.min_rate * self._limits.stall_timeout
        held_up = self.flow.read_paused or self.cycle.waiting_for_100_continue  # the application, not the client
        if held_up or self._body_size >= enough:
            self._watch_body()
        else:
            detail = f"a body comes with {self._limits.min_rate} bytes a second at least; this one did not"
            self._refuse(Problem(408, "RequestTimeout", detail))

    # -- what the parser finds --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._begun = True
        self._head_size = self._size = 0

    def on_url(self, url: bytes) -> None:
        """A part of the URL has come."""
        self._size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is complete."""
        if len(self.headers) >= _MOST_HEADERS:
            raise self._head_too_large()
        self._size += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._size > self._limits.max_head:
            raise self._head_too_large()
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or not all(map(_is_host, hosts)):
            raise bad_request("a request has one Host header: a name or address, and perhaps a port")
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise Problem(429, "TooManyRequests", f"at most {_MOST_PIPELINED} requests may wait on one connection")
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            _slim(self.cycle.message_event)
        self._in_head = self._begun = False

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        self._body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come as a whole."""
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        """The request is answered. As uvicorn's, but with one timer for all the pauses between requests."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._await_next_request(self.timeout_keep_alive)
        if not self._refused and (self._begun or not self._in_head):
            self._wait(self._next_wait())

    def _await_next_request(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._look_if_idle)

    def _look_if_idle(self) -> None:
        self.timeout_keep_alive_task = None
        if self._is_answering or self._begun or not self._in_head:
            return  # the next answer sets the timer again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._await_next_request(left)
        else:
            self.timeout_keep_alive_handler()

    def _head_too_large(self) -> Problem:
        detail = f"the head of a request has at most {self._limits.max_head} bytes and {_MOST_HEADERS} headers"
        return Problem(431, "HeaderTooLarge", detail)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _refuse(self, problem: Problem) -> None:
        """Take nothing more from the client, and say why as far as that is possible still."""
        self._refused = True
        self._wait("")
        self._unset_keepalive_if_required()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and self._is_answering and self._in_head:
            cycle.keep_alive = False  # of an earlier request: its answer shall be the last
            return
        said = False
        if cycle is not None and not self._in_head:  # it is this request's body
            said = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if said:
            self.transport.close()
            return
        self.transport.write(last_words(problem))
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER, self.transport.abort)


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    """Whether a Host header can be made a URL of (RFC 3986, 3.2): everything behind this takes that for granted."""
    found = _HOST.fullmatch(value)
    if found is None or int(found["port"] or 0) > 65_535:
        return False
    if found["ip"] is None:
        return True
    try:
        ipaddress.IPv6Address(found["ip"].decode())
    except ValueError:
        return False
    return True
