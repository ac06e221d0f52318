"""A webhook: an HTTP server that takes what is delivered and answers as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Receiver:
    """What came, oldest first; ``answers`` are given in turn, the last one for ever."""

    def __init__(self, answers: list[tuple[int, bytes]]) -> None:
        self.url = ""
        self.came: asyncio.Queue[tuple[dict[str, str], bytes, Any]] = asyncio.Queue()
        self._answers = answers

    async def next(self) -> tuple[dict[str, str], bytes, Any]:
        """Headers, body, and what the body says."""
        async with asyncio.timeout(20):
            return await self.came.get()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        headers: dict[str, str] = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers["content-length"]))
        status, answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        self.came.put_nowait((headers, body, json.loads(body)))
        writer.write(
            f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
        )
        writer.write(answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*answers: tuple[int, bytes]) -> AsyncIterator[Receiver]:
    """A webhook on this machine."""
    receiver = Receiver(list(answers) or [(200, b"{}")])
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    try:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        yield receiver
    finally:
        server.close()
