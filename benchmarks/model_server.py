"""A model's provider as it is seen over HTTP: tokens without end, until the connection is closed. It counts them.

``python -m benchmarks.model_server <Provider as JSON>`` says Ready with its URL, and ends when its stdin does.
``POST /v1/chat/completions`` streams as OpenAI's API does. A request is known by its prompt, the content of its last
message: ``GET /requests/PROMPT`` tells what became of it, ``.../closed`` the same once its connection is closed.
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable

import msgspec

from benchmarks.peer import Answer, Ready
from benchmarks.worker import answer_with, open_answers
from cluster.serve import run

_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


class Provider(msgspec.Struct):
    """How the tokens come."""

    interval: float = 0.01
    """Seconds from one to the next."""


class Generated(msgspec.Struct):
    """What became of the requests with one prompt."""

    requests: int = 0
    open: int = 0
    """Connections that are open."""
    tokens: int = 0
    """How many were produced."""
    closed_at: float = 0.0
    """When a connection was closed last, by ``time.perf_counter``, which all processes of a (Linux) machine share."""


class Model:
    """The provider's side of all connections."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._generated: defaultdict[str, Generated] = defaultdict(Generated)
        self._closed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, and the end of its connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            length = next((int(line[15:]) for line in head.splitlines() if line.lower()[:15] == "content-length:"), 0)
            body = await reader.readexactly(length)
            if method == "POST":
                await self._generate(msgspec.json.decode(body)["messages"][-1]["content"], reader, writer)
            else:
                _, _, prompt, *closed = urllib.parse.unquote(path).split("/")
                if closed:
                    await self._closed[prompt].wait()
                writer.write(_JSON + msgspec.json.encode(self._generated[prompt]))
                await writer.drain()
        writer.close()

    async def _generate(self, prompt: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generated = self._generated[prompt]
        generated.requests += 1
        generated.open += 1
        producing = asyncio.create_task(self._produce(prompt, writer))
        try:
            await reader.read()  # the client has nothing more to say: this is its end
        finally:
            generated.closed_at = time.perf_counter()
            generated.open -= 1
            self._closed[prompt].set()
            producing.cancel()

    async def _produce(self, prompt: str, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM)
        while True:
            self._generated[prompt].tokens += 1
            delta = {"role": "assistant", "content": f"{prompt} "}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "any", "choices": [choice]}
            writer.write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")
            await writer.drain()
            await asyncio.sleep(self._interval)


async def serve(provider: Provider, say: Callable[[Answer], None]) -> int:
    """Serve on a free port of the loopback address."""
    server = await asyncio.start_server(Model(provider.interval).answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    say(answer_with(Ready(f"http://{host}:{port}")))
    await server.serve_forever()
    return 0


def _exit_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    _provider = msgspec.json.decode(sys.argv[1], type=Provider)
    _say = open_answers()
    sys.exit(run(lambda: serve(_provider, _say)))
