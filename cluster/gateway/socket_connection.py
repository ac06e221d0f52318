"""One WebSocket connection: uvicorn's on websockets, with an end to everything that a client may do to it."""

import asyncio
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from cluster.gateway.connection import ServerConfig
from cluster.gateway.problems import Problem, response_for
from cluster.gateway.stalls import StallGuard
from cluster.gateway.wire import last_words

_MOST_FRAGMENTS: Final = 1024
_PIECE: Final = 4096
"""Bytes that are made messages of at once. A message may have as little as 6, and takes some hundred in memory."""


class SocketConnection(WebSocketsSansIOProtocol):
    """Refuses bad handshakes with problem details. A client that takes nothing is owed no more than what waits already.

    Nothing is compressed: a compressor costs each idle connection more memory than everything else does.
    """

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.gateway
        self._stalls: StallGuard | None = None
        self._fragments = 0
        self._unread: deque[bytes] = deque()
        self.conn = _Handshake(max_size=config.ws_max_size, logger=self.logger)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        self._stalls = StallGuard(self.transport, patience=self._limits.stall_timeout, rate=self._limits.min_rate)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
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
        self._unread.extend(data[first : first + _PIECE] for first in range(0, len(data), _PIECE))
        self._parse()

    async def receive(self) -> ASGIReceiveEvent:
        """See ASGI."""
        message = await super().receive()
        self._parse()
        return message

    def _parse(self) -> None:
        """Make messages of what has come, piece by piece, until there is one that the application has not taken yet."""
        while self._unread and not self.read_paused:
            super().data_received(self._unread.popleft())
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self._refuse_handshake(self.conn.handshake_exc)

    def _refuse_handshake(self, error: Exception) -> None:
        self.handshake_initiated = self.handshake_complete = True
        detail = f"this is no handshake of a WebSocket, or a line of it is too long: {error}"
        self.transport.write(last_words(Problem(400, "BadRequest", detail)))
        self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        """See ASGI."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # with a refusal; uvicorn would log that there was none
        self._parse()  # the application may have closed: then what comes is not for it any more

    def handle_ping(self) -> None:
        """Answer a ping, unless the client does not even take what came before."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_text(self, event: Frame) -> None:
        """A message begins."""
        self._fragments = 1
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """A message begins."""
        self._fragments = 1
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """A message goes on. Its size is limited, but that of what is kept for each part is not."""
        self._fragments += 1
        if self._fragments <= _MOST_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {_MOST_FRAGMENTS} parts")
            self.handle_parser_exception()


class _Handshake(ServerProtocol):
    def reject(self, status: StatusLike, text: str) -> Response:
        """A refusal in problem details."""
        name = {403: "NotAuthorized", 405: "MethodNotAllowed", 426: "UpgradeRequired"}.get(int(status), "BadRequest")
        if int(status) >= 500:
            name, text = "InternalError", "the silo could not handle this request; its log says why"
        found = response_for(Problem(int(status), name, text.strip() or "this WebSocket is not open to you"))
        headers = Headers({"Date": formatdate(usegmt=True), "Connection": "close", **found.headers})
        return Response(int(status), HTTPStatus(status).phrase, headers, bytes(found.body))
