"""A client of the WebSocket that knows nothing but frames."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.gateway.http_client import Gateway


class Frames:
    """A connection: what it is told, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            found: dict[str, Any] = json.loads(await self.connection.recv())
            return found

    async def call(self, **frame: Any) -> dict[str, Any]:
        """Send a frame and return the next one that comes."""
        await self.send(**frame)
        return await self.next()

    async def take(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]

    async def all(self) -> list[dict[str, Any]]:
        """What still comes until the server closes it."""
        found = []
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    found.append(json.loads(await self.connection.recv()))
        return found

    async def closed(self) -> tuple[int | None, str | None]:
        """Return with what code and reason it is closed by the server."""
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def opened(gateway: Gateway, address: str = "desk-1", **options: Any) -> AsyncIterator[Frames]:
    """A WebSocket at the actor."""
    url = f"ws://{gateway.address}/v1/actors/{address}/ws"
    async with connect(url, proxy=None, max_queue=None, **options) as connection:
        yield Frames(connection)
