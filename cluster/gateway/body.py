"""Reading the bodies of requests."""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from cluster.gateway.problems import Problem, response_for

_MOST_UNREAD = 64 * 2**20
_PATIENCE = 5.0  # seconds for the rest of a body that nobody wants


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises ``Problem`` 413 as soon as it is over the limit, ``ClientDisconnect`` if no more comes."""
    for name, announced in request.scope["headers"]:
        if name == b"content-length":
            if announced.isdigit() and int(announced[:20]) > limit:
                raise _too_large(limit)
            break
    body = b""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
        if more or chunks:
            chunks.append(body)
    return b"".join(chunks) if chunks else body


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "PayloadTooLarge", f"a body has at most {limit} bytes; append in parts", headers={"Connection": "close"}
    )


class Incoming:
    """The ``receive`` of a request, and how much of its body was left unread.

    A connection that is closed while its client still sends is reset, and then the client does not see the answer.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._more: bool | None = None

    async def receive(self) -> Message:
        """See ASGI."""
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what nobody has read, within reason."""
        if self._more is None:  # nobody has looked
            self._more = any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        if self._more:
            await self._read_on()

    async def _read_on(self) -> None:
        size = 0
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._more and size < _MOST_UNREAD:
                    size += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or the handshake of a WebSocket, that goes no further."""
    if scope["type"] == "http":
        await Incoming(scope, receive).drain()
    await response_for(problem)(scope, receive, send)
