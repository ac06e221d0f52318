"""Readers of the live tails of channels."""

import asyncio
import contextlib
from types import TracebackType
from typing import Final, Self

from actors import Channel, Event

_AHEAD: Final = 64  # events that may wait for a slow reader


class Hub:
    """Where all readers of this silo's gateway meet the channels that they follow."""

    def follow(self, channel: Channel, after: int | None) -> "Follower":
        """The events behind an offset (None: all that is retained), and then those to come."""
        return Follower(channel, after)


class Follower:
    """One reader of one channel. Use it as a context manager."""

    def __init__(self, channel: Channel, after: int | None) -> None:
        self._channel = channel
        self._after = after
        self._came: asyncio.Queue[Event | None] = asyncio.Queue(_AHEAD)
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _read(self) -> None:
        try:
            async with contextlib.aclosing(self._channel.subscribe(self._after)) as events:  # type: ignore[type-var]
                async for event in events:
                    await self._came.put(event)
        except Exception as error:  # for who reads to raise
            self._failure = error
        await self._came.put(None)

    async def next(self, timeout: float) -> list[Event]:
        """The events that have come, at least one.

        Raises ``TimeoutError``; ``EOFError`` when there will be none any more; what made reading impossible.
        """
        async with asyncio.timeout(timeout):
            came = [await self._came.get()]
        while not self._came.empty():
            came.append(self._came.get_nowait())
        events = [event for event in came if event is not None]
        if came[-1] is None:
            self._came.put_nowait(None)  # for the next time
            if not events:
                raise self._failure or EOFError
        return events
