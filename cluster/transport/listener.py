"""The accepting side: a gRPC server whose only method is the link."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from cluster.transport import frame
from cluster.transport.handshake import Identity, Introduction, Stream, admit
from cluster.transport.link import GrpcLink
from cluster.transport.options import server_options
from cluster.transport.refusal import Refusal

_log = logging.getLogger(__name__)


class _Service(grpc.GenericRpcHandler):
    def __init__(self, handler: Any) -> None:
        # Without (de)serializers gRPC hands over bytes: junk is then ours to judge.
        self._handler: Any = grpc.stream_stream_rpc_method_handler(handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == frame.METHOD else None


class Listener:
    """Accepts links on one port.

    ``opened`` is called with the stream, the other side's introduction and its address for each handshake that
    succeeded; the link that it returns is run until it ends. None turns the other side away. ``closed_to`` is asked
    during the handshake why somebody is refused, "" if nobody has to be.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        opened: Callable[[Stream, Introduction, str], GrpcLink | None],
        closed_to: Callable[[Introduction], str],
        handshake_timeout: float,
        keepalive: float,
    ) -> None:
        self._identity = identity
        self._opened = opened
        self._closed_to = closed_to
        self._handshake_timeout = handshake_timeout
        self._server = grpc.aio.server(options=server_options(keepalive=keepalive))
        self._server.add_generic_rpc_handlers((_Service(self._accept),))

    async def listen(self, address: str) -> str:
        """Bind and start; return the bound ``host:port``. Raises ``OSError`` if the address cannot be used."""
        credentials = self._identity.credentials.for_server()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            port, reason = 0, str(error)
        else:
            reason = "the address is in use or not of this machine"
        if not port:
            raise OSError(f"cannot listen on {address}: {reason}")
        await self._server.start()
        return f"{address.rpartition(':')[0]}:{port}"

    async def close(self, grace: float) -> None:
        """Stop; streams that are still open after ``grace`` seconds are broken."""
        await self._server.stop(grace)

    async def _accept(self, _: object, context: Any) -> None:
        where = context.peer()
        handshake = asyncio.create_task(admit(context, self._identity, closed_to=self._closed_to))
        handshake.add_done_callback(_forget)
        done, _pending = await asyncio.wait({handshake}, timeout=self._handshake_timeout)
        if not done:
            _log.warning("no link from %s: the handshake did not end in %g s", where, self._handshake_timeout)
            return
        try:
            introduction = handshake.result()
        except Refusal as refusal:
            _log.warning("no link from %s: %s", where, refusal.text)
            return
        except Exception as error:
            _log.info("no link from %s: %s", where, error)
            return
        if introduction is None:
            return
        link = self._opened(context, introduction, where)
        if link is not None:
            await link.run()


def _forget(task: asyncio.Task[Introduction | None]) -> None:
    # Where nobody waits any more, an exception is of no interest, but asyncio would report it.
    if not task.cancelled():
        task.exception()
