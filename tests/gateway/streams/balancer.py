"""A load balancer of the simplest kind: every new connection goes to the next silo."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


@asynccontextmanager
async def balanced(addresses: Sequence[str]) -> AsyncIterator[tuple[str, list[int]]]:
    """The address of a balancer over these, and how many connections each of them got."""
    counts = [0] * len(addresses)
    turns = itertools.cycle(range(len(addresses)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(turns)
        counts[number] += 1
        host, _, port = addresses[number].rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}", counts
    finally:
        server.close()


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(2**16):
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
