"""Stands between a store and its server, and breaks the connection at a chosen moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

# before: the server never gets the group.   after: it does, and answers, but the store does not hear it.
# late: the store loses the connection, and the group reaches the server when `deliver` is set.
# at once: the store loses the connection while the server works on the group.
Cut = Literal["before", "after", "late", "at once"]


class Proxy:
    """``cut`` says what to do with the next group, once; while ``refuse`` is set, nobody can connect.

    New connections lead to ``server_port``.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = 0
        self.cut: Cut | None = None
        self.refuse = False
        self.happened = asyncio.Event()
        self.deliver = asyncio.Event()
        self.delivered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def url(self, direct: str) -> str:
        """The URL with the proxy in the place of the server."""
        return direct.replace(f":{self.server_port}/", f":{self.port}/")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it."""
        if self.refuse:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:  # nobody is there
            writer.transport.abort()
            return
        back = asyncio.create_task(_relay(server_reader, writer))
        try:
            while data := await reader.read(1 << 20):
                # The driver binds the arguments of each group, and nothing else in between.
                if self.cut is None or not data.startswith(b"B"):
                    server_writer.write(data)
                    continue
                cut, self.cut = self.cut, None
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                if cut in ("after", "at once"):
                    server_writer.write(data)
                if cut == "after":
                    await server_reader.read(1 << 20)
                writer.transport.abort()
                self.happened.set()
                if cut in ("late", "at once"):
                    await self.deliver.wait()
                if cut == "late":
                    server_writer.write(data)
                    answer = await server_reader.read(1 << 20)
                    if not self.delivered.done():
                        self.delivered.set_result(answer)
                break
        except OSError:
            pass
        finally:
            back.cancel()
            writer.transport.abort()
            server_writer.transport.abort()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 20):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def proxy(server_port: int) -> AsyncIterator[Proxy]:
    """A proxy that runs."""
    between = Proxy(server_port)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await between.serve(reader, writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    between.port = listener.sockets[0].getsockname()[1]
    try:
        yield between
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
