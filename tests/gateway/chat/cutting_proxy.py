"""A way to several silos that breaks off: every connection after so many bytes, or all when it is told to."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from examples.chat.balancer import pass_on


class CuttingProxy:
    """Passes connections on to the first silo that takes one, beginning with the one after the last that did."""

    def __init__(self, addresses: Sequence[str], after: int | None, growth: int) -> None:
        self.address = ""
        self.connections = 0
        self.cuts = 0
        """Connections that were broken off."""
        self.after = after
        """Bytes of an answer after which its connection is broken off; None: they are passed on whole."""
        self._growth = growth
        self._addresses = list(addresses)
        self._next = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        self.connections += 1
        far = await self._dial()
        if far is None:
            writer.transport.abort()
            return
        far_reader, far_writer = far
        self._open |= {writer, far_writer}
        sending = asyncio.create_task(pass_on(reader, far_writer))
        try:
            await self._pass(far_reader, writer)
        finally:
            sending.cancel()
            self._open -= {writer, far_writer}
            for end in (writer, far_writer):
                end.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._addresses:
            host, _, port = self._addresses[self._next % len(self._addresses)].rpartition(":")
            self._next += 1
            try:
                return await asyncio.open_connection(host, int(port))
            except OSError:
                continue
        return None

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        passed = 0
        try:
            while data := await source.read(2**16):
                if self.after is not None:
                    data = data[: self.after - passed]
                target.write(data)
                await target.drain()
                passed += len(data)
                if self.after is not None and passed >= self.after:
                    self.cuts += 1
                    self.after += self._growth
                    return
        except OSError:
            pass

    def cut(self) -> None:
        """Break off every connection that is open."""
        for writer in self._open:
            self.cuts += 1
            writer.transport.abort()


@asynccontextmanager
async def cutting(
    addresses: Sequence[str], *, after: int | None = None, growth: int = 0
) -> AsyncIterator[CuttingProxy]:
    """Such a way to the silos at these HTTP addresses; after each break connections carry ``growth`` bytes more."""
    proxy = CuttingProxy(addresses, after, growth)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        proxy.address = f"{host}:{port}"
        yield proxy
    finally:
        proxy.cut()
        server.close()
