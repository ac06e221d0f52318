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
    turns = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(turns)
        for silo in (silos[(first + number) % len(silos)] for number in range(len(silos))):
            host, _, silo_port = silo.rpartition(":")
            try:
                async with asyncio.timeout(CONNECT_LIMIT):
                    far_reader, far_writer = await asyncio.open_connection(host, int(silo_port))
            except OSError:
                continue
            await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))
            return
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        host, bound = server.sockets[0].getsockname()[:2]
        yield f"{host}:{bound}"
    finally:
        server.close()


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(2**16):
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
