"""A silo is killed while a real language model writes: the model is asked for the rest, and readers lose nothing."""

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from actors import actor_ref
from cluster.etcd import EtcdServer
from examples.local_model import local_model
from tests.cluster.waiting import eventually
from tests.durable.cluster import Cluster, nursery

OPENING = "The lamp on the harbour wall went out, and Mara heard someone row towards her in the dark."
MOST_TOKENS = 40


class CountingProxy:
    """Stands before a provider and keeps what it was asked, and how many pieces each answer had."""

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self.asked: list[dict[str, Any]] = []
        self.pieces: list[int] = []
        self._answering: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            yield f"http://127.0.0.1:{port}{self._upstream.path}"
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            assert length, head
            body = await reader.readexactly(int(length[1]))
            number = len(self.asked)
            self.asked.append(json.loads(body))
            self.pieces.append(0)
            provider, to_provider = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            head = re.sub(rb"\r\nconnection: [^\r]*", b"", head, flags=re.IGNORECASE)
            to_provider.write(head[:-2] + b"Connection: close\r\n\r\n" + body)  # so that the answer's end is seen
            with contextlib.closing(to_provider):
                while line := await provider.readline():
                    self.pieces[number] += bool(re.search(rb'"text": ?"[^"]', line))
                    writer.write(line)
                    await writer.drain()


@pytest.mark.timeout(120)  # most of it is the start of the model
async def test_the_model_is_asked_for_the_rest_only(etcd_server: EtcdServer, tmp_path: Path) -> None:
    address = "writer-n1.1"
    with nursery(tmp_path, apps=["tests.durable.app", "tests.durable.writer"]) as found:
        cluster = Cluster(found, etcd_server, f"sqlite:///{tmp_path}/state.db", tmp_path, name=secrets.token_hex(4))
        async with local_model(slots=2) as endpoint:
            proxy = CountingProxy(endpoint.url)
            async with proxy.serve() as url:
                (tmp_path / "model").write_text(url)
                await cluster.start("n1", "n2")
                cluster.plan_kill(address, "after deltas draft", 5)
                async with cluster.attended(), cluster.client("n2"), asyncio.timeout(50):
                    reading = asyncio.create_task(read_until(address, written := asyncio.Event()))
                    text = await actor_ref(address).write(OPENING, MOST_TOKENS)
                    assert cluster.killed(address)
                    assert await actor_ref(address).read() == text
                    written.set()
                    events = await reading
        await cluster.stop()
    assert [offset for offset, _, _ in events] == list(range(len(events)))
    assert {kind for _, _, kind in events} == {"item"}
    pieces = [data for _, data, _ in events]
    assert "".join(pieces) == text
    first, rest = proxy.asked
    journaled = MOST_TOKENS - rest["max_tokens"]
    assert 5 <= journaled <= proxy.pieces[0]
    assert rest["prompt"] == (first["prompt"] + "".join(pieces[:journaled])).rstrip()
    assert journaled < len(pieces) <= journaled + proxy.pieces[1]  # the writer may stop at the end of a sentence


async def read_until(address: str, written: asyncio.Event) -> list[tuple[int, str, str]]:
    """The channel's entries, up to the last one there is when the text is written."""
    found: list[tuple[int, str, str]] = []
    async with aclosing(actor_ref(address).channel("draft").subscribe()) as events:  # type: ignore[type-var]

        async def read() -> None:
            async for offset, data, kind, _ in events:
                found.append((offset, data, kind))  # others look at it meanwhile

        reader = asyncio.create_task(read())
        await written.wait()
        text = await actor_ref(address).read()
        await eventually("the reader has all of it", lambda: "".join(data for _, data, _ in found) == text)
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    return found
