"""Plain grpc.aio: one unary RPC a call, bytes in and bytes out, no protobuf and no actors."""

import contextlib
from collections.abc import AsyncIterator, Awaitable

import grpc

from benchmarks.peer import PAYLOAD, Caller, Peer, Place, Served

_SERVICE, _METHOD = "benchmarks.Echo", "Echo"


class GrpcUnaryPeer(Peer):
    """A server with one generic handler, and one channel to it."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """The server."""

        async def answer(request: bytes, _: object) -> bytes:
            return request

        server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            _METHOD: grpc.unary_unary_rpc_method_handler(answer)
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield Served(f"127.0.0.1:{port}")
        finally:
            await server.stop(None)

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """The channel."""
        async with grpc.aio.insecure_channel(place.endpoints[0]) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")

            def echo(_: int) -> Awaitable[object]:
                return call(PAYLOAD)

            yield Caller({"echo": echo})


PEER = GrpcUnaryPeer()
