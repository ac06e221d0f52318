"""The app under ``benchmarks.interrupt``: a turn that streams from a provider, and what keeps its silo busy."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from actors import Actor, Interrupted, handler
from actors.retention import Retention

_SLICE = 0.002
_WINDOW = 0.1
_PAUSE = 0.001


class Writer(Actor, idle_timeout=3600, channel_retention=Retention(items=100)):
    """Streams from the provider until it is interrupted."""

    @handler
    async def write(self, url: str, prompt: str) -> float:
        """When the interruption was raised here, by ``time.perf_counter``."""
        try:
            async for _ in self.stream_step("draft", tokens, url, prompt, channel="output"):
                pass
        except Interrupted:
            return time.perf_counter()
        raise RuntimeError(f"{prompt}: the tokens have ended")


async def tokens(url: str, prompt: str) -> AsyncIterator[str]:
    """What the provider streams, over a connection that is closed with this iterator."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        body = msgspec.json.encode({"stream": True, "messages": [{"role": "user", "content": prompt}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        while line := await reader.readline():
            if line.startswith(b"data: "):
                yield msgspec.json.decode(line[6:])["choices"][0]["delta"]["content"]
    finally:
        writer.close()


class Neighbour(Actor, idle_timeout=3600):
    """Computes beside the writers, in slices of 2 ms, so that the silo's process has so much to do."""

    share = 0.0

    @handler
    async def compute(self) -> None:
        """Keep the process at ``share`` of a CPU, all that it does together, until that is 0."""
        while self.share:
            began, used = time.perf_counter(), time.process_time()
            while (elapsed := time.perf_counter() - began) < _WINDOW:
                if time.process_time() - used < self.share * elapsed:
                    end = time.thread_time() + _SLICE
                    while time.thread_time() < end:
                        pass
                    await asyncio.sleep(0)
                else:
                    await asyncio.sleep(_PAUSE)

    @handler(control=True)
    async def set_share(self, share: float) -> None:
        """From now on."""
        self.share = share

    @handler(control=True)
    async def cpu_seconds(self) -> float:
        """What the process has used so far."""
        return time.process_time()
