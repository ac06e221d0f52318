"""Channels over every store: trimming, closing, producers and compaction, across activations that die in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from actors import Actor, ChannelClosed, Event, OffsetGone, actor_ref, handler
from actors.alone import LonelyDirectory, NoTransport
from actors.builtin import APPEND
from actors.channel_log import read_items
from actors.ref import current_caller
from actors.runtime import Runtime
from actors.settings import Settings
from cluster.clock import SystemClock
from cluster.store import LocalStore
from tests.cluster.waiting import eventually

Connect = Callable[[], Awaitable[LocalStore]]


class Tape(Actor, public=True, channel_retention={"items": 50, "bytes": 2000}):
    @handler
    async def record(self, first: int, count: int, size: int) -> None:
        for number in range(first, first + count):
            await self.publish(f"{number:{size}}")

    @handler
    async def dictate(self, count: int) -> None:
        async for _ in self.stream_step("dictate", words, count, channel="output"):
            pass


async def words(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield f"{number} "


_eras = iter(range(1, 1000))


@asynccontextmanager
async def owner(store: LocalStore) -> AsyncIterator[Runtime]:
    """A runtime that dies at the end, without a word."""
    directory = LonelyDirectory(["tape"], era=next(_eras))
    runtime = Runtime(
        [Tape], directory=directory, transport=NoTransport(), store=store, clock=SystemClock(), settings=Settings()
    )
    token = current_caller.set(runtime.outbound)
    try:
        yield runtime
    finally:
        runtime.vanish()
        await runtime.close()
        current_caller.reset(token)


async def offsets(store: LocalStore) -> list[int]:
    return [offset for offset, _ in await read_items(store, "tape-1", "output", 0, 10**6, limit=10**6)]


async def read(*, until: int, after: int | None = None, compact: bool = False) -> list[Event]:
    found: list[Event] = []
    async with (
        asyncio.timeout(10),
        aclosing(actor_ref("tape-1").channel().subscribe(after, compact=compact)) as events,  # type: ignore[type-var]
    ):
        async for event in events:
            found.append(event)
            if event.offset >= until:
                break
    return found


async def test_what_is_too_much_is_gone_from_the_store(connect: Connect) -> None:
    store = await connect()
    async with owner(store):
        for first in range(0, 120, 7):
            await actor_ref("tape-1").record(first, 7, 1)
        assert await offsets(store) == [*range(76, 126)]
        with pytest.raises(OffsetGone) as gone:
            await read(until=100, after=10)
        assert gone.value.first == 76
    async with owner(store):
        assert [event.offset for event in await read(until=125)] == [*range(76, 126)]


async def test_an_owner_that_dies_before_it_trims_leaves_that_to_the_next(connect: Connect) -> None:
    store = await connect()
    async with owner(store) as runtime:
        await actor_ref("tape-1").record(0, 1, 1)
        runtime.activations["tape-1"].durable_side.trimmer = None
        await actor_ref("tape-1").record(1, 40, 98)
        assert len(await offsets(store)) == 41
    async with owner(store):
        await actor_ref("tape-1").record(0, 0, 1)

        async def is_trimmed() -> bool:
            return len(await offsets(store)) <= 20

        await eventually("it is trimmed", is_trimmed)
        assert await offsets(store) == [*range(21, 41)], "exactly what the limit lets go"
        assert [event.offset for event in await read(until=40, after=20)] == [*range(21, 41)]


async def test_producers_and_the_end_outlive_the_owner(connect: Connect) -> None:
    store = await connect()

    async def append(values: list[Any], seq: int, *, close: bool = False) -> str:
        code: str = (await current_caller.get().ask(  # type: ignore[union-attr]
            actor_ref("tape-1"), APPEND, ("output", values, close, ("p", 0, seq)), {}
        ))[0]  # fmt: skip
        return code

    for seq in range(3):
        async with owner(store):
            assert await append([seq, seq], seq) == "ok"
        async with owner(store):
            assert await append([seq, seq], seq) == "duplicate"
            assert await append([seq], seq + 2) == "gap"
    async with owner(store):
        assert await append([], 3, close=True) == "ok"
    async with owner(store):
        assert await append([], 3, close=True) == "duplicate"
        with pytest.raises(ChannelClosed):
            await append(["late"], 4)
        events = await read(until=6)
    assert [event.data for event in events] == [0, 0, 1, 1, 2, 2, True]


async def test_a_text_is_read_in_one_piece(connect: Connect) -> None:
    store = await connect()
    async with owner(store):
        await actor_ref("tape-1").dictate(40)
    async with owner(store):
        (event,) = await read(until=39, compact=True)
    assert event.data == "".join([f"{number} " for number in range(40)])
