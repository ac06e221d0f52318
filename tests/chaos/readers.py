"""Readers of the heralds' channels, who leave in the middle and come back elsewhere, behind the last that they read."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from actors import actor_ref
from actors.errors import ActorError
from cluster.client import Client
from tests.chaos.history import History
from tests.cluster.house import calling_from
from tests.gateway.http_client import Gateway

PATIENCE = 5.0
"""Seconds without news after which a reader comes anew. Silos that are cut off say nothing."""


class Entry(NamedTuple):
    """What a reader read."""

    offset: int
    kind: str
    item: Any


class Reader:
    """Reads one channel to no end."""

    def __init__(self, name: str, address: str, history: History, rng: random.Random) -> None:
        self.name = name
        self.address = address
        self.entries: list[Entry] = []
        self.visits = 0
        self._history = history
        self._rng = rng
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Read no more. Raises what went wrong with the reader itself."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def end(self) -> int:
        """The offset that it waits for."""
        return self.entries[-1].offset + 1 if self.entries else 0

    async def _read(self) -> None:
        while True:
            self.visits += 1
            stay = self._rng.randint(1, 200)
            try:
                async with aclosing(self._visit(self._rng)) as visit:
                    while stay > 0:
                        async with asyncio.timeout(PATIENCE):
                            self.entries.append(await anext(visit))
                        stay -= 1
            except StopAsyncIteration:
                pass
            except (ActorError, OSError, EOFError, TimeoutError) as error:
                self._history.errors[f"reader {type(error).__name__}"] += 1
            await asyncio.sleep(self._rng.uniform(0, 0.2))  # a reconnecting client's pause

    def _visit(self, rng: random.Random) -> AsyncGenerator[Entry, None]:
        raise NotImplementedError


class ClientReader(Reader):
    """Subscribes through a client."""

    def __init__(
        self, name: str, address: str, history: History, rng: random.Random, clients: Sequence[Client]
    ) -> None:
        super().__init__(name, address, history, rng)
        self._clients = clients

    async def _visit(self, rng: random.Random) -> AsyncGenerator[Entry, None]:
        with calling_from(rng.choice(self._clients)):
            events = actor_ref(self.address).channel("output").subscribe(after=self.end - 1 if self.entries else None)
        async with aclosing(events) as found:  # type: ignore[type-var]
            async for event in found:
                yield Entry(event.offset, event.kind, event.data)


class HttpReader(Reader):
    """Takes server-sent events from the HTTP port of some silo."""

    def __init__(self, name: str, address: str, history: History, rng: random.Random, gateways: Sequence[str]) -> None:
        super().__init__(name, address, history, rng)
        self._gateways = gateways

    async def _visit(self, rng: random.Random) -> AsyncGenerator[Entry, None]:
        headers = {"Last-Event-ID": str(self.end - 1)} if self.entries else {}
        gateway = Gateway(rng.choice(self._gateways))
        path = f"/v1/actors/{self.address}/events?channel=output"
        async with gateway.opened("GET", path, headers=headers) as (status, _, reader):
            if status != 200:
                raise ConnectionError(f"{gateway.address}{path}: {status}")
            async for frame in _frames(reader):
                fields = dict(line.split(": ", 1) for line in frame.splitlines() if not line.startswith(":"))
                if "id" in fields:
                    yield Entry(int(fields["id"]), fields.get("event", "item"), json.loads(fields["data"]))


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The frames of a chunked response."""
    text = b""
    while size := int((await reader.readline()).strip() or b"0", 16):
        text += await reader.readexactly(size)
        await reader.readline()
        while b"\n\n" in text:
            frame, _, text = text.partition(b"\n\n")
            yield frame.decode()
