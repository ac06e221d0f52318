"""A TCP proxy, in front of etcd and others, that cuts, freezes, swallows and delays on command."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Forwards a port to ``target`` (a URL), by default a loopback port. All switches act on open connections, too."""

    def __init__(self, target: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        address = urlsplit(target)
        self._listen = host
        self._host, self._target_port = address.hostname or "", address.port or 0
        self._server: asyncio.Server | None = None
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()
        self.resume()
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self.connections = 0
        self.answered_bytes = 0
        self.asked = asyncio.Event()  # set when bytes arrive from a client

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"{self._listen}:{self._port}"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    async def accept(self) -> None:
        """Listen (again), on the same port."""
        self._server = await asyncio.start_server(self._connected, self._listen, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut everything and refuse new connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        for writer in list(self._writers):
            writer.transport.abort()
        for pump in list(self._pumps):
            pump.cancel()
        if self._pumps:
            await asyncio.wait(list(self._pumps))
        while self._writers:
            writer = self._writers.pop()
            with suppress(OSError):
                await writer.wait_closed()

    def freeze(self) -> None:
        """Forward nothing any more, in neither direction, but keep connections and accept new ones."""
        self._requests_flow.clear()
        self._answers_flow.clear()

    def swallow_answers(self) -> None:
        """Forward requests, hold back the answers."""
        self._answers_flow.clear()

    def resume(self) -> None:
        self._requests_flow.set()
        self._answers_flow.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(upstream_writer)
        loop = asyncio.get_running_loop()
        for pump in (
            loop.create_task(self._pump(reader, upstream_writer, self._requests_flow, answers=False)),
            loop.create_task(self._pump(upstream_reader, writer, self._answers_flow, answers=True)),
        ):
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event, *, answers: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if not answers:
                    self.asked.set()
                if self.delay:
                    await asyncio.sleep(self.delay)
                await flow.wait()
                writer.write(data)
                await writer.drain()
                if answers:
                    self.answered_bytes += len(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()
