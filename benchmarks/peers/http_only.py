"""What is left of an append where nothing is appended: the HTTP server, and an application that answers 204."""

import contextlib
from collections.abc import AsyncIterator

from starlette.types import Receive, Scope, Send

from benchmarks.peer import Place, Served
from benchmarks.stream_load import StreamsPeer
from cluster.gateway.options import GatewayOptions
from cluster.gateway.server import Server


class HttpOnlyPeer(StreamsPeer):
    """No silo, no actors, no store."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """The server alone."""
        server = Server(GatewayOptions(), [], direct={"/": _answer})
        try:
            yield Served(await server.start("127.0.0.1:0"))
        finally:
            await server.stop()


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    status = 201 if scope["method"] == "PUT" else 204
    headers = [(b"content-length", b"0")] if status == 201 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


PEER = HttpOnlyPeer()
