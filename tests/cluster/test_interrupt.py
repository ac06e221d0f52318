"""An interrupt from another silo stops what a model's server generates: its client closes the connection."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from actors import TurnInterrupted, actor_ref
from cluster import connect
from tests.cluster.processes import Cluster
from tests.cluster.waiting import eventually

ADDRESS = "narrator-n1.1"


class Model:
    """Speaks the protocol of chat completions over HTTP, and never ends by itself."""

    def __init__(self) -> None:
        self.tokens = 0
        """How many were generated in all."""
        self.open = 0
        """How many connections there are."""
        self.closed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /v1/chat/completions"), head
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                hung_up = asyncio.ensure_future(self._until_closed(reader))
                while not hung_up.done():
                    self.tokens += 1
                    chunk = {
                        "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "any",
                        "choices": [{"index": 0, "delta": {"content": f"{self.tokens} "}, "finish_reason": None}],
                    }  # fmt: skip
                    writer.write(b"data: %s\n\n" % json.dumps(chunk).encode())
                    await writer.drain()
                    await asyncio.wait({hung_up}, timeout=0.005)
        finally:
            writer.close()
            self.open -= 1
            self.closed.set()

    @staticmethod
    async def _until_closed(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass


@pytest.mark.parametrize("name", ["tell", "answer"])
async def test_the_model_stops_where_the_turn_was_stopped(cluster: Cluster, name: str) -> None:
    model = Model()
    async with model.serve() as url:
        _, n2 = await cluster.start("n1", "n2", app="tests.cluster.narrator", env={"MODEL_URL": url})
        (found,) = await n2.ready()
        async with connect(found["grpc"], cluster=cluster.name):
            ref = actor_ref(ADDRESS)
            before = await ref.tasks()
            call = asyncio.ensure_future(getattr(ref, name)("Go on and on."))
            await eventually("the model speaks", lambda: model.tokens > 20)
            assert await ref.interrupt("enough")
            await asyncio.wait_for(model.closed.wait(), 10)
            generated = model.tokens
            if name == "tell":
                text = await call
                assert await ref.story() == (text, "enough")
                assert len(text.split()) <= generated
            else:
                with pytest.raises(TurnInterrupted, match="enough"):
                    await call
            assert (model.tokens, model.open) == (generated, 0)
            await eventually("no task is left", lambda: _at_most(ref.tasks(), before))


async def _at_most(call: object, limit: int) -> bool:
    return await call <= limit  # type: ignore[misc, no-any-return]
