"""A load balancer of the simplest kind: every new connection goes to the next silo."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from examples.chat.balancer import pass_on


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
        await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}", counts
    finally:
        server.close()
