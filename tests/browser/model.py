"""A language model that says what a test wants it to say, when it wants it, over the API of the local one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PACE = 0.005
"""Seconds between two pieces."""


@dataclass
class Model:
    """Tells its pieces, one after the other, to whoever asks; waits where there are none."""

    url: str = ""
    asked: int = 0
    """How many have asked for a completion."""
    told: int = 0
    """Pieces that went out."""
    _fails: bool = False
    _pieces: "asyncio.Queue[str | None]" = field(default_factory=asyncio.Queue)
    _words: int = 0
    _telling: "set[asyncio.Task[None]]" = field(default_factory=set)

    def say(self, *pieces: str) -> None:
        """What it says next."""
        for piece in pieces:
            self._pieces.put_nowait(piece)

    def say_words(self, count: int) -> str:
        """So many words, none of which it has said before: one that is lost or doubled shows. Returns the last."""
        words = [f" word{self._words + number}" for number in range(count)]
        self._words += count
        self.say(*words)
        return words[-1]

    def end(self) -> None:
        """That was all, for this completion."""
        self._pieces.put_nowait(None)

    def fail(self) -> None:
        """Refuse the next one who asks."""
        self._fails = True

    def forget(self) -> None:
        """Say nothing of what it was going to say."""
        while not self._pieces.empty():
            self._pieces.get_nowait()

    async def begin(self) -> None:
        """Begin anew: without those who still listen, and with nothing to say."""
        self.forget()
        for telling in list(self._telling):
            telling.cancel()
            await asyncio.wait({telling})
        self._fails = False
        self.asked = self.told = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        self.asked += 1
        telling = asyncio.create_task(self._tell(reader, writer))
        self._telling.add(telling)
        await asyncio.wait({telling})
        self._telling.discard(telling)
        if not telling.cancelled() and not isinstance(error := telling.exception(), OSError | EOFError | None):
            raise error
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    @property
    def listening(self) -> int:
        """How many of those who have asked are still there."""
        return len(self._telling)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        if self._fails:
            self._fails = False
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        gone = asyncio.create_task(reader.read())
        try:
            while not gone.done():
                saying = asyncio.create_task(self._pieces.get())
                await asyncio.wait({saying, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not saying.done():
                    saying.cancel()
                    return
                piece = saying.result()
                writer.write(_chunk(piece))
                await writer.drain()
                if piece is None:
                    return
                self.told += 1
                await asyncio.sleep(PACE)
        finally:
            gone.cancel()


def _chunk(piece: str | None) -> bytes:
    if piece is None:
        return b"data: [DONE]\n\n"
    choice = {"index": 0, "text": piece, "finish_reason": None, "logprobs": None}
    chunk = {"id": "1", "object": "text_completion", "created": 0, "model": "test", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


@asynccontextmanager
async def scripted_model() -> AsyncIterator[Model]:
    """A model that is served for the length of the block."""
    model = Model()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    model.url = f"http://{host}:{port}/v1"
    try:
        yield model
    finally:
        server.close()
