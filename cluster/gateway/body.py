"""Reading the bodies of requests."""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from cluster.gateway.problems import Problem, response_for

_MOST_UNREAD = 64 * 2**20
_PATIENCE = 5.0  # seconds for the rest of a body that nobody wants


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises ``Problem`` 413 as soon as it is over the limit, ``ClientDisconnect`` if no more comes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem(
        413, "PayloadTooLarge", f"a body has at most {limit} bytes; append in parts", headers={"Connection": "close"}
    )


class Incoming:
    """The ``receive`` of a request, and how much of its body was left unread.

    A connection that is closed while its client still sends is reset, and then the client does not see the answer.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        names = {name for name, _ in scope["headers"]}
        self._receive = receive
        self._more = b"content-length" in names or b"transfer-encoding" in names

    async def receive(self) -> Message:
        """See ASGI."""
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what nobody has read, within reason."""
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
