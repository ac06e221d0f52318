"""Channels in one process: what an entry says of itself, and stores that older code has written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from actors import Actor, Event, actor_ref, codec, handler, records
from actors.records import ChannelHead, ChannelItem
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, soon


class Wire(Actor):
    @handler
    async def tell(self, *items: Any) -> str:
        for item in items:
            await self.publish(item)
        return self.context.message_id

    @handler
    async def tell_in_step(self, item: str) -> str:
        await self.step("tell", self.publish, item)
        return self.context.message_id

    @handler
    async def stream(self, *items: str) -> str:
        async for _ in self.stream_step("stream", words, items, channel="output"):
            pass
        return self.context.message_id

    @handler
    async def tell_other(self, address: str, item: str) -> None:
        await actor_ref(address).channel().publish(item)


async def words(items: tuple[str, ...]) -> AsyncIterator[str]:
    for item in items:
        yield item


async def read(address: str, count: int, *, after: int | None = None, channel: str = "output") -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(3), aclosing(actor_ref(address).channel(channel).subscribe(after)) as events:  # type: ignore[type-var]
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


def head_of(store: ScriptedStore, address: str, channel: str = "output") -> ChannelHead:
    row = store.data.records[address].records[records.CHANNEL + channel.encode()]
    return msgspec.msgpack.decode(row, type=ChannelHead)


def items_of(store: ScriptedStore, address: str, channel: str = "output") -> dict[int, ChannelItem]:
    prefix = records.item_prefix(channel)
    rows = sorted(store.data.records[address].records.items())
    return {records.offset_of(key): records.channel_items.decode(row) for key, row in rows if key.startswith(prefix)}


async def test_an_entry_knows_the_turn_that_published_it(start: Start, store: ScriptedStore) -> None:
    start(Wire, store=store)
    ref = actor_ref("wire-1")
    first = await soon(ref.tell("a", "b"))
    second = await soon(ref.tell_in_step("c"))
    third = await soon(ref.stream("d", "e"))
    await soon(ref.channel().publish("from outside"))
    await soon(actor_ref("wire-2").tell_other("wire-1", "from another actor's turn"))
    seen = await read("wire-1", 7)
    assert [event.turn for event in seen] == [first, first, second, third, third, "", ""]
    assert len({first, second, third}) == 3
    assert [event.turn for event in await read("wire-1", 3, after=1)] == [second, third, third], "also from the store"


async def test_entries_count_the_bytes_of_all_up_to_them(start: Start, store: ScriptedStore) -> None:
    start(Wire, store=store)
    await soon(actor_ref("wire-1").tell("a", "bc" * 500, ["d"]))
    await soon(actor_ref("wire-1").stream("e"))
    total = 0
    for item in items_of(store, "wire-1").values():
        total += len(item.data)
        assert item.end == total
    assert head_of(store, "wire-1") == ChannelHead(4, 0, total)


async def test_a_store_that_older_code_has_written_is_read(start: Start, store: ScriptedStore) -> None:
    """Its rows have fewer fields."""
    start(Wire, store=store)
    await soon(actor_ref("wire-1").tell())
    rows = store.data.records["wire-1"].records
    rows[records.CHANNEL + b"output"] = records.encode([2, 0])
    for offset in range(2):
        rows[records.item_key("output", offset)] = records.encode(["item", codec.encode(f"old {offset}"), 1e9])
    start(Wire, store=store)
    turn = await soon(actor_ref("wire-1").tell("new"))
    assert await read("wire-1", 3) == [(0, "old 0", "item", ""), (1, "old 1", "item", ""), (2, "new", "item", turn)]
    assert head_of(store, "wire-1") == ChannelHead(3, 0, len(codec.encode("new")))
