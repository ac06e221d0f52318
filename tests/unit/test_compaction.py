"""What joiners of a channel get: merged, complete, and the same text as a reader of every entry has."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from actors import Actor, Event, actor_ref, handler
from actors.compaction import Compactor, Entry
from actors.records import item_key
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, settle, soon, until


def compacted(*entries: tuple[str, Any, str], given: int = 0, first: int = 0) -> list[tuple[int, str, Any, str]]:
    compactor = Compactor(given)
    for offset, (kind, data, turn) in enumerate(entries, first):
        compactor.add(Entry(offset, kind, data, turn))
    return [entry[:4] for entry in compactor.take()]


def item(data: Any, turn: str = "t") -> tuple[str, Any, str]:
    return "item", data, turn


def test_strings_of_one_turn_become_one() -> None:
    assert compacted(item("a"), item("b"), item("c")) == [(2, "item", "abc", "t")]
    assert compacted(item("a"), item("b", "u"), item("c")) == [
        (0, "item", "a", "t"), (1, "item", "b", "u"), (2, "item", "c", "t"),
    ]  # fmt: skip
    assert compacted(item("a", ""), item("b", "")) == [(0, "item", "a", ""), (1, "item", "b", "")], "of no turn"
    assert [data for _, _, data, _ in compacted(item("a"), item(1), item("b"), item("c"))] == ["a", 1, "bc"]


def test_deltas_of_one_text_become_one() -> None:
    def delta(piece: str, text: str = "x", **more: object) -> tuple[str, Any, str]:
        return item({"type": "text-delta", "id": text, "delta": piece, **more})

    assert compacted(delta("a"), delta("b")) == [(1, "item", {"type": "text-delta", "id": "x", "delta": "ab"}, "t")]
    apart = [delta("a"), delta("b", "y"), delta("c", "y", more=1), item("d"), item({"delta": 5}), item({"delta": "e"})]
    assert [entry[1:] for entry in compacted(*apart)] == apart, "what else differs keeps them apart"
    whole = [item({"content": "a"}), item({"content": "b"}), item({"text": "c"})]
    assert [entry[1:] for entry in compacted(*whole)] == whole, "only what is called a delta is a piece"


def test_what_a_reset_supersedes_is_left_out() -> None:
    assert compacted(item("a"), item("b"), ("reset", 1, "t"), item("c")) == [(3, "item", "ac", "t")]
    assert compacted(item("a", "s"), item("b"), item("c"), ("reset", 1, "t"), item("d")) == [
        (0, "item", "a", "s"), (4, "item", "d", "t"),
    ]  # fmt: skip
    assert compacted(item("a"), ("reset", 0, "t")) == []
    assert compacted(item("c"), ("reset", 1, "t"), item("d"), given=3, first=3) == [
        (4, "reset", 1, "t"), (5, "item", "d", "t"),
    ], "the reader has some of it"  # fmt: skip
    assert compacted(("reset", 1, "t"), item("d"), ("reset", 2, "t"), item("e"), given=3, first=3) == [
        (3, "reset", 1, "t"), (5, "reset", 2, "t"), (6, "item", "e", "t"),
    ], "the reader has to hear of both"  # fmt: skip


def as_read(events: list[Entry]) -> str:
    """What a reader has that does what resets say. Pieces of a merged entry are known by its last offset."""
    kept: list[tuple[int, str]] = []
    for offset, kind, data, *_ in events:
        if kind == "reset":
            kept = [piece for piece in kept if piece[0] < data]
        else:
            kept.append((offset, data if isinstance(data, str) else data["delta"]))
    return "".join(text for _, text in kept)


@pytest.mark.parametrize("seed", range(200))
def test_the_text_is_the_same_whatever_comes(seed: int) -> None:
    """Also where the reader gets it in several parts: a reset that reaches into an earlier part is passed on."""
    rng = random.Random(seed)
    entries: list[Entry] = []
    turn, began = "t0", -1
    for offset in range(rng.randrange(1, 60)):
        begins = False
        if rng.random() < 0.2:
            turn = f"t{offset}"
        if began >= 0 and rng.random() < 0.15:
            entries.append(Entry(offset, "reset", began, turn))
            began = -1
            continue
        if rng.random() < 0.2:
            begins, began = True, offset
        piece = f"{offset}."
        data: Any = piece if rng.random() < 0.6 else {"delta": piece, "n": seed % 2}
        entries.append(Entry(offset, "item", data, turn, begins))
    at_once, in_parts, parts = Compactor(), Compactor(), list[Entry]()
    for entry in entries:
        at_once.add(entry)
        in_parts.add(entry)
        if rng.random() < 0.1:
            parts += in_parts.take()
    parts += in_parts.take()
    found = at_once.take()
    assert as_read(found) == as_read(parts) == as_read(entries)
    assert not any(entry.kind == "reset" for entry in found)
    assert len(found) < len(entries) or len(entries) < 10


# -- reading --------------------------------------------------------------------------------------------------------


class Poet(Actor, channel_retention={"items": 4000}):
    @handler
    async def write(self, count: int) -> None:
        async for _ in self.stream_step("write", words, count, channel="output"):
            pass

    @handler
    async def note(self, what: Any) -> None:
        await self.publish(what)


async def words(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield f"{number} "


async def read(until: int, *, after: int | None = None) -> list[Event]:
    found: list[Event] = []
    async with (
        asyncio.timeout(5),
        aclosing(actor_ref("poet-1").channel().subscribe(after, compact=True)) as events,  # type: ignore[type-var]
    ):
        async for event in events:
            found.append(event)
            if event.offset >= until:
                break
    return found


async def test_a_joiner_gets_the_text_so_far_in_one_piece_and_then_what_comes(
    start: Start, store: ScriptedStore
) -> None:
    start(Poet, store=store)
    ref = actor_ref("poet-1")
    await soon(ref.write(1000))
    await soon(ref.note({"a": {1, 2}}))
    await soon(ref.write(600))
    text = "".join([f"{number} " for number in range(1000)])
    (first, note, second) = await read(1600)
    assert (first.offset, first.data, note.offset, note.data) == (999, text, 1000, {"a": {1, 2}})
    assert (second.offset, second.data) == (1600, "".join([f"{number} " for number in range(600)]))
    assert first.turn != second.turn
    (rest, _, _) = await read(1600, after=499)
    assert rest.data == "".join([f"{number} " for number in range(500, 1000)])

    following = asyncio.ensure_future(read(1603))
    await settle()
    for word in "xyz":
        await soon(ref.note(word))
    assert [event.data for event in await soon(following)][3:] == ["x", "y", "z"], "what comes is not merged"
    raw = [event async for event in _some(1601)]
    assert [event.data for event in raw[:3]] == ["0 ", "1 ", "2 "], "every entry can still be read"


async def _some(count: int) -> AsyncIterator[Event]:
    async with aclosing(actor_ref("poet-1").channel().subscribe()) as events:  # type: ignore[type-var]
        async for event in events:
            yield event
            count -= 1
            if not count:
                return


async def test_a_text_that_may_be_told_anew_is_not_merged_with_what_came_before(
    start: Start, store: ScriptedStore
) -> None:
    """Else a joiner would lose that, too, when the owner dies and the stream begins again."""

    class Dying(Poet, type="poet"):
        alive = True

        @handler
        async def begin(self) -> None:
            await self.step("title", self.publish, "title ")
            async for word in self.stream_step("write", words, 20, channel="output"):
                if word == "9 " and Dying.alive:
                    Dying.alive = False
                    await asyncio.Event().wait()

    runtime = start(Dying, store=store)
    await soon(actor_ref("poet-1").begin.send())
    rows = store.data.records
    await until(lambda: item_key("output", 10) in rows["poet-1"].records, "it is in the middle")
    events = await read(10)
    runtime.vanish()
    runtime = start(Dying, store=ScriptedStore(store.data))
    runtime.spawn(runtime.keep_agenda())
    events += await read(31, after=10)
    assert [event.kind for event in events[:3]] == ["item", "item", "reset"]
    assert as_read([Entry(event.offset, event.kind, event.data, event.turn) for event in events]) == (
        "title " + "".join([f"{number} " for number in range(20)])
    )
    (title, text) = await read(31)
    assert (title.data, text.data) == ("title ", "".join([f"{number} " for number in range(20)]))


async def test_a_joiner_gets_what_is_retained(start: Start, store: ScriptedStore) -> None:
    """Of a text whose beginning was trimmed, the rest."""
    start(Poet, store=store)
    await soon(actor_ref("poet-1").write(5000))
    (event,) = await read(4999)
    assert event.data == "".join([f"{number} " for number in range(1000, 5000)])


async def test_a_joiner_of_a_closed_channel_gets_its_end(start: Start, store: ScriptedStore) -> None:
    start(Poet, store=store)
    await soon(actor_ref("poet-1").write(10))
    await soon(actor_ref("poet-1").channel().close())
    async with asyncio.timeout(3):
        events = [event async for event in actor_ref("poet-1").channel().subscribe(compact=True)]
    assert [(event.offset, event.kind) for event in events] == [(9, "item"), (10, "closed")]
