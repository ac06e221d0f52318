"""A load balancer of the simplest kind, so that a page has one address to come back to when its silo is gone."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

CONNECT_LIMIT = 1.0


@asynccontextmanager
async def balanced(silos: Sequence[str], *, port: int = 0) -> AsyncIterator[str]:
    """The address of a balancer on this machine that leads each connection to the next silo which accepts it.

    ``silos``: ``host:port`` of each; ``port`` 0 takes a free one. Raises ``OSError`` if the port is taken.
    """
    balancer = _Balancer(silos)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", port)
    try:
        host, bound = server.sockets[0].getsockname()[:2]
        yield f"{host}:{bound}"
    finally:
        server.close()
        await balancer.close()


class _Balancer:
    def __init__(self, silos: Sequence[str]) -> None:
        self._silos = silos
        self._turns = itertools.count()
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._open[task] = [writer]
        try:
            far = await self._connect()
            if far is None:
                writer.transport.abort()
                return
            far_reader, far_writer = far
            writers.append(far_writer)
            await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))
        finally:
            del self._open[task]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turns)
        for silo in [self._silos[(first + number) % len(self._silos)] for number in range(len(self._silos))]:
            host, _, port = silo.rpartition(":")
            try:
                async with asyncio.timeout(CONNECT_LIMIT):
                    return await asyncio.open_connection(host, int(port))
            except OSError:
                continue
        return None

    async def close(self) -> None:
        """Cut what is open, and return when that has ended."""
        tasks = list(self._open)
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks)


async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Give what comes from ``source`` to ``target``, until one of them ends; then ``target`` is closed."""
    try:
        while data := await source.read(2**16):
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
