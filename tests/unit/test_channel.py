"""Channels in one process: what an entry says of itself, and stores that older code has written."""

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from actors import (
    Actor,
    ActorFailed,
    ActorRef,
    ChannelClosed,
    Event,
    IdempotencyKeyReused,
    NotAuthorized,
    OffsetGone,
    Retention,
    UnknownHandler,
    actor_ref,
    codec,
    handler,
    records,
)
from actors.builtin import APPEND, SUBSCRIBE
from actors.effects import Effects
from actors.envelope import Mode, Reply, Request
from actors.ports import Commit, StoreUnavailable
from actors.records import ChannelHead, ChannelItem
from actors.ref import caller
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ManualClock, ScriptedStore, settle, soon, until


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
    head = head_of(store, "wire-1")
    assert (head.next, head.first, head.size) == (4, 0, total)


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
    assert head_of(store, "wire-1").size == len(codec.encode("new"))


# -- retention ------------------------------------------------------------------------------------------------------


class Wall(ManualClock):
    """A clock that passes with the loop's."""

    def __init__(self, loop_time: LoopTime) -> None:
        super().__init__()
        self._start, self._loop_time = loop_time.now(), loop_time

    def time(self) -> float:
        return super().time() + self._loop_time.now() - self._start


@pytest.mark.parametrize(
    "given",
    [Retention(items=3), {"items": 3}, (3,), (3, None, None), {"items": 3, "bytes": None}],
)
async def test_items_are_limited_in_the_publishing_commit(start: Start, store: ScriptedStore, given: Any) -> None:
    class Short(Wire, channel_retention=given):
        pass

    start(Short, store=store)
    ref = actor_ref("short-1")
    for number in range(5):
        await soon(ref.tell(number))
        assert list(items_of(store, "short-1")) == list(range(max(0, number - 2), number + 1))
        assert head_of(store, "short-1").first == max(0, number - 2)
    await soon(ref.tell(*range(5, 15)))
    assert list(items_of(store, "short-1")) == [12, 13, 14], "also of what one commit brings"
    await soon(ref.stream(*"abcdefg"))
    kept = items_of(store, "short-1")
    assert list(kept) == [19, 20, 21]
    assert [event.offset for event in await read("short-1", 3)] == [19, 20, 21]
    await soon(ref.channel("other").publish(1))
    assert list(items_of(store, "short-1", "other")) == [0], "each channel has its own limit"


@pytest.mark.parametrize(
    "given",
    [
        {"items": 0}, {"items": -1}, {"items": 1.5}, {"items": True}, {"bytes": 0}, {"bytes": "1"}, {"age": 0},
        {"age": -1}, {"age": float("nan")}, {"age": float("inf")}, {"age": True}, {"age": "1"}, {"count": 1},
        (1, 2, 3, 4), 5, "5", [1], {"age": timedelta(0)},
    ],
)  # fmt: skip
def test_a_bad_retention_names_the_class(given: Any) -> None:
    with pytest.raises(ValueError, match="class Bad: channel_retention: "):

        class Bad(Actor, channel_retention=given):
            pass


def test_a_retention_is_inherited_and_says_its_age_in_seconds() -> None:
    class Base(Actor, channel_retention={"age": timedelta(minutes=1), "items": 7}):
        pass

    class Derived(Base):
        pass

    assert Derived._options.channel_retention == Retention(items=7, age=60)
    assert Derived._options.channel_retention.seconds == 60.0


async def test_bytes_are_limited_soon_and_never_below(start: Start, store: ScriptedStore) -> None:
    limit = 10_000

    class Heavy(Wire, channel_retention={"bytes": limit}):
        pass

    start(Heavy, store=store)
    ref = actor_ref("heavy-1")

    def kept() -> int:
        return sum(len(item.data) for item in items_of(store, "heavy-1").values())

    sent = 0
    for number in range(100):
        await soon(ref.tell("x" * (100 + number * 10)))
        sent += len(codec.encode("x" * (100 + number * 10)))
        await settle()
        assert kept() >= min(limit, sent)
        assert kept() <= limit + limit // 8 + 2000
    await soon(ref.tell("y" * 50_000))
    await until(lambda: len(items_of(store, "heavy-1")) == 1, "the newest is kept, however large")
    assert (await read("heavy-1", 1))[0].offset == 100
    offsets = list(items_of(store, "heavy-1"))
    assert head_of(store, "heavy-1").first == offsets[0]


async def test_what_an_owner_could_not_trim_the_next_one_does(start: Start, store: ScriptedStore) -> None:
    """The silo dies between the publishing and the trimming commit."""

    class Heavy(Wire, channel_retention={"bytes": 1000}):
        pass

    runtime = start(Heavy, store=store)
    await soon(actor_ref("heavy-1").tell("first"))
    trim, runtime.activations["heavy-1"].durable_side.trimmer = (
        runtime.activations["heavy-1"].durable_side.trimmer,
        None,
    )
    assert trim is not None
    await soon(actor_ref("heavy-1").tell(*["x" * 100] * 100))
    runtime.vanish()
    assert len(items_of(store, "heavy-1")) == 101
    start(Heavy, store=ScriptedStore(store.data))
    await soon(actor_ref("heavy-1").tell())
    await until(lambda: len(items_of(store, "heavy-1")) == 10, "it is trimmed")
    assert [event.offset for event in await read("heavy-1", 10)] == [*range(91, 101)]


async def test_a_trimming_commit_that_fails_is_made_up_for(
    start: Start, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Heavy(Wire, channel_retention={"bytes": 1000}):
        pass

    start(Heavy, store=store)
    reading = store.read

    async def fail(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "read", fail)
    await soon(actor_ref("heavy-1").tell(*["x" * 100] * 100))
    await settle()
    assert len(items_of(store, "heavy-1")) == 100
    monkeypatch.setattr(store, "read", reading)
    await until(lambda: len(items_of(store, "heavy-1")) == 10, "it is trimmed, though nobody publishes any more")


@pytest.mark.parametrize("keep", [{"bytes": 1000}, {"age": 5.0}])
async def test_trimming_waits_longer_and_longer_for_a_store_that_is_away(
    loop_time: LoopTime, start: Start, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, keep: dict[str, Any]
) -> None:
    class Heavy(Wire, channel_retention=keep, idle_timeout=7200):
        pass

    start(Heavy, store=store, clock=Wall(loop_time))
    reading, tries = store.read, 0

    async def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal tries
        tries += 1
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "read", fail)
    await soon(actor_ref("heavy-1").tell(*["x" * 100] * 100))
    for _ in range(600):
        await loop_time.jump(1.0)
    assert 5 < tries < 25  # in ten minutes
    monkeypatch.setattr(store, "read", reading)
    await loop_time.jump(61.0)
    await until(lambda: len(items_of(store, "heavy-1")) < 11, "it is trimmed")


async def test_what_is_too_old_goes_also_while_the_actor_sleeps(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    class Old(Wire, channel_retention={"age": 100}, idle_timeout=1):
        pass

    runtime = start(Old, store=store, clock=Wall(loop_time))
    runtime.spawn(runtime.keep_agenda())
    ref = actor_ref("old-1")
    await soon(ref.tell("a", "b"))
    await loop_time.jump(50)
    await soon(ref.tell("c", "d"))
    await loop_time.jump(10)
    await until(lambda: not runtime.activations, "it sleeps")
    wake = store.data.records["old-1"].wake or 0.0
    await loop_time.jump(39)
    assert len(items_of(store, "old-1")) == 4, "nothing goes early"
    store.opened.clear()
    for _ in range(20):
        await loop_time.jump(1.1)
    await until(lambda: list(items_of(store, "old-1")) == [2, 3], "what is too old is gone")
    for _ in range(10):
        await loop_time.jump(2)
    await until(lambda: not runtime.activations, "it sleeps again")
    assert (store.data.records["old-1"].wake or 0.0) > wake + 40
    for _ in range(100):
        await loop_time.jump(2)
    await until(lambda: list(items_of(store, "old-1")) == [3], "the newest is kept")
    await until(lambda: not runtime.activations, "it sleeps again")
    assert store.opened == ["old-1"] * 2, "it is woken no more often than there is something to do"
    assert store.data.records["old-1"].wake is None, "and never for the newest entry"
    assert [event.data for event in await read("old-1", 1)] == ["d"]


async def test_what_is_too_old_goes_while_the_actor_is_awake(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    class Old(Wire, channel_retention={"age": timedelta(seconds=80)}, idle_timeout=1e6):
        pass

    start(Old, store=store, clock=Wall(loop_time))
    for number in range(30):
        await soon(actor_ref("old-1").tell(number))
        await loop_time.jump(10)
    await settle()
    oldest = next(iter(items_of(store, "old-1")))
    assert 19 <= oldest <= 22


async def test_entries_of_older_code_are_trimmed_by_age(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    """Their channel does not say how old the oldest one is."""

    class Old(Wire, channel_retention={"age": 100}):
        pass

    clock = Wall(loop_time)
    start(Old, store=store, clock=clock)
    await soon(actor_ref("old-1").tell())
    rows = store.data.records["old-1"].records
    rows[records.CHANNEL + b"output"] = records.encode([300, 0])
    for offset in range(300):
        at = clock.time() - (1000 if offset < 200 else 50)
        rows[records.item_key("output", offset)] = records.encode(["item", codec.encode(offset), at])
    start(Old, store=store, clock=clock)
    await soon(actor_ref("old-1").tell())
    await loop_time.jump(1)
    await until(lambda: list(items_of(store, "old-1")) == [*range(200, 300)], "they are gone")


async def test_system_channels_have_a_limit_of_their_own(start: Start, store: ScriptedStore) -> None:
    runtime = start(Wire, store=store)
    await soon(actor_ref("wire-1").tell())
    activation = runtime.activations["wire-1"]
    effects = Effects()
    effects.items["$log"] = [ChannelItem("item", codec.encode(number)) for number in range(1500)]
    assert await activation.write(activation.durable_side.commits.apart(effects))
    assert list(items_of(store, "wire-1", "$log")) == [*range(500, 1500)]


async def test_a_reader_whose_place_was_trimmed_is_told(start: Start, store: ScriptedStore) -> None:
    class Short(Wire, channel_retention=(3,)):
        pass

    start(Short, store=store)
    await soon(actor_ref("short-1").tell(*range(10)))
    assert [event.offset for event in await read("short-1", 3)] == [7, 8, 9]
    assert [event.offset for event in await read("short-1", 3, after=6)] == [7, 8, 9]
    for after in (-1, 0, 5):
        with pytest.raises(OffsetGone, match=f"short-1/output: what was at offset {after + 1} .* has offset 7") as gone:
            await read("short-1", 1, after=after)
        assert gone.value.first == 7
        assert pickle.loads(pickle.dumps(gone.value)).first == 7


async def test_a_live_reader_that_was_overtaken_is_told(start: Start, store: ScriptedStore) -> None:
    class Short(Wire, channel_retention=(300,)):
        pass

    start(Short, store=store)
    await soon(actor_ref("short-1").tell(*range(10)))
    async with aclosing(actor_ref("short-1").channel().subscribe()) as events:  # type: ignore[type-var]
        seen = [(await soon(anext(events))).offset]
        for _ in range(30):  # more than its credit lets it have
            await soon(actor_ref("short-1").tell(*[b"x" * 65536] * 40))
        with pytest.raises(OffsetGone) as gone:
            while True:
                seen.append((await soon(anext(events))).offset)
    assert seen == [*range(len(seen))], "nothing is skipped before it is told"
    assert gone.value.first == 10 + 30 * 40 - 300
    assert len(seen) < gone.value.first


async def test_a_reader_is_told_where_a_commit_under_way_trims(start: Start, store: ScriptedStore) -> None:
    """The rows are gone, and the owner does not know it yet."""

    class Short(Wire, channel_retention=(3,)):
        pass

    runtime = start(Short, store=store)
    await soon(actor_ref("short-1").tell(*range(3)))
    log = runtime.activations["short-1"].durable_side.channel("output")
    for offset in range(2):
        del store.data.records["short-1"].records[records.item_key("output", offset)]
    log.first = 2
    with pytest.raises(OffsetGone) as gone:
        await read("short-1", 1, after=-1)
    assert gone.value.first == 2
    assert [event.offset for event in await read("short-1", 1)] == [2], "who asked for what there is gets that"


# -- the end of a channel -------------------------------------------------------------------------------------------


class Closer(Wire):
    gate: asyncio.Event
    running: asyncio.Event

    @handler
    async def close(self, *before: str) -> None:
        for item in before:
            await self.publish(item)
        await self.channel().close()
        await self.channel().close()

    @handler
    async def close_and_go_on(self, how: str) -> str:
        await self.channel().close()
        try:
            if how == "publish":
                await self.publish("late")
            elif how == "step":
                await self.step("late", self.publish, "late")
            else:
                async for _ in self.stream_step("late", words, ("late",), channel="output"):
                    pass
        except ChannelClosed as error:
            return str(error)
        return "nothing was raised"

    @handler
    async def close_and_fail(self) -> None:
        await self.channel().close()
        raise ValueError

    @handler
    async def tell_slowly(self, first: str, second: str) -> None:
        await self.publish(first)
        Closer.running.set()
        await Closer.gate.wait()
        await self.publish(second)

    @handler
    async def stream_slowly(self, first: str, second: str) -> None:
        async for _ in self.stream_step("slowly", slowly, first, second, channel="output"):
            pass

    @handler(control=True)
    async def beside(self) -> None:
        await self.publish("beside")
        await Closer.gate.wait()

    @handler
    async def close_by(self, other: str) -> str:
        await self.publish("mine")
        try:
            await actor_ref(other).close_that(self.address)
        except ActorFailed as error:
            return error.type_name
        return "nothing was raised"

    @handler
    async def close_that(self, address: str) -> None:
        await actor_ref(address).channel().close()


async def slowly(first: str, second: str) -> AsyncIterator[str]:
    yield first
    Closer.running.set()
    await Closer.gate.wait()
    yield second


@pytest.fixture
def closer() -> ActorRef:
    Closer.gate, Closer.running = asyncio.Event(), asyncio.Event()
    return actor_ref("closer-1")


def told(events: list[Event]) -> list[tuple[int, object, str]]:
    return [event[:3] for event in events]


async def read_to_the_end(address: str, after: int | None = None) -> list[tuple[int, object, str]]:
    async with asyncio.timeout(3):
        return told([event async for event in actor_ref(address).channel().subscribe(after)])


async def test_a_turn_closes_a_channel_with_its_commit(start: Start, store: ScriptedStore, closer: ActorRef) -> None:
    start(Closer, store=store)
    await soon(closer.tell("a"))
    reading = [asyncio.ensure_future(read_to_the_end("closer-1", after)) for after in (None, -1, 0)]
    await settle()
    await soon(closer.close("b"))
    await soon(closer.channel().close())
    everything = [(0, "a", "item"), (1, "b", "item"), (2, True, "closed")]
    assert await soon(asyncio.gather(*reading)) == [everything, everything, everything[1:]]
    assert await read_to_the_end("closer-1") == everything, "a joiner has the history, and the end"
    for after in (2, 3, 99):
        assert await read_to_the_end("closer-1", after) == everything[2:], "a reader at the end is told so"
    assert list(items_of(store, "closer-1")) == [0, 1, 2], "closing again adds nothing"
    start(Closer, store=ScriptedStore(store.data))
    assert await read_to_the_end("closer-1", 0) == everything[1:], "also after a restart"
    assert await read_to_the_end("closer-1", 2) == everything[2:]
    with pytest.raises(ChannelClosed, match="closer-1/output is closed"):
        await soon(closer.channel().publish("late"))


async def test_nothing_is_published_to_a_closed_channel(start: Start, store: ScriptedStore, closer: ActorRef) -> None:
    start(Closer, store=store)
    await soon(closer.channel().close())
    with pytest.raises(ChannelClosed, match="closer-1/output is closed"):
        await soon(closer.channel().publish("late"))
    with pytest.raises(ActorFailed, match="ChannelClosed: closer-1/output is closed"):
        await soon(closer.tell("late"))
    with pytest.raises(ActorFailed, match="ChannelClosed"):
        await soon(closer.stream("late"))
    assert await read_to_the_end("closer-1") == [(0, True, "closed")]
    await soon(closer.channel("other").publish("fine"))


@pytest.mark.parametrize("how", ["publish", "step", "stream"])
async def test_a_turn_that_closes_cannot_go_on(start: Start, store: ScriptedStore, closer: ActorRef, how: str) -> None:
    start(Closer, store=store)
    assert "is closed" in await soon(closer.close_and_go_on(how)), "it is raised at the call"
    assert await read_to_the_end("closer-1") == [(0, True, "closed")]


async def test_a_turn_that_fails_closes_nothing(start: Start, store: ScriptedStore, closer: ActorRef) -> None:
    start(Closer, store=store)
    with pytest.raises(ActorFailed):
        await soon(closer.close_and_fail())
    await soon(closer.tell("a"))
    assert told(await read("closer-1", 1)) == [(0, "a", "item")]


@pytest.mark.parametrize("how", ["tell_slowly", "stream_slowly"])
async def test_closing_comes_behind_what_running_turns_have_published(
    start: Start, store: ScriptedStore, closer: ActorRef, how: str
) -> None:
    start(Closer, store=store)
    telling = asyncio.ensure_future(getattr(closer, how)("a", "b"))
    await soon(Closer.running.wait())
    closing = asyncio.ensure_future(closer.channel().close())
    await settle()
    with pytest.raises(ChannelClosed):
        await soon(closer.channel().publish("overtakes"))
    assert not closing.done()
    Closer.gate.set()
    await soon(telling)
    await soon(closing)
    assert await read_to_the_end("closer-1") == [(0, "a", "item"), (1, "b", "item"), (2, True, "closed")]


async def test_a_call_beside_a_turn_that_closes_fails_rather_than_lose_its_entries(
    start: Start, store: ScriptedStore, closer: ActorRef
) -> None:
    start(Closer, store=store)
    beside = asyncio.ensure_future(closer.beside())
    await settle()
    await soon(closer.close())
    Closer.gate.set()
    with pytest.raises(ActorFailed, match="ChannelClosed"):
        await soon(beside)
    assert await read_to_the_end("closer-1") == [(0, True, "closed")]


async def test_a_turn_that_waits_for_its_own_channel_to_be_closed_is_a_cycle(
    start: Start, store: ScriptedStore, closer: ActorRef
) -> None:
    start(Closer, store=store)
    assert await soon(closer.close_by("closer-2")) == "actors.errors.CallCycle"
    assert told(await read("closer-1", 1)) == [(0, "mine", "item")]
    await soon(closer.channel().close())


async def test_an_actor_that_was_deleted_has_open_channels_again(
    start: Start, store: ScriptedStore, closer: ActorRef
) -> None:
    start(Closer, store=store)
    await soon(closer.close("a"))
    await soon(closer.delete())
    await soon(closer.tell("new"))
    assert told(await read("closer-1", 1)) == [(3, "new", "item")]
    assert await read_to_the_end("closer-1", 0) == [(2, None, "closed")], "deleted, not closed"


async def test_the_end_of_a_channel_is_retained(start: Start, store: ScriptedStore, closer: ActorRef) -> None:
    class Short(Closer, channel_retention=(1,)):
        pass

    start(Short, store=store)
    await soon(actor_ref("short-1").close("a", "b"))
    assert await read_to_the_end("short-1") == [(2, True, "closed")]


async def test_nobody_publishes_to_the_channels_of_the_engine(start: Start, store: ScriptedStore) -> None:
    start(Wire, store=store)
    for doing in ("publish", "close"):
        channel = actor_ref("wire-1").channel("$turns")
        with pytest.raises(NotAuthorized):
            await soon(channel.publish(1) if doing == "publish" else channel.close())


# -- exactly once ---------------------------------------------------------------------------------------------------


class Board(Closer, public=True):
    pass


async def append(
    *values: Any, producer: tuple[str, int, int] | None = None, close: bool = False, address: str = "board-1"
) -> list[Any]:
    ask = caller().ask(actor_ref(address), APPEND, ("output", [*values], close, producer), {})
    answer: list[Any] = await soon(ask)
    return answer


async def test_a_key_publishes_once(start: Start, store: ScriptedStore) -> None:
    """Also over a restart, and a crash between the commit and the answer."""
    runtime = start(Wire, store=store)
    ref = actor_ref("wire-1").options(idempotency_key="k")
    await soon(ref.channel().publish("a"))
    await soon(asyncio.gather(*(ref.channel().publish("a") for _ in range(5))))
    with pytest.raises(IdempotencyKeyReused):
        await soon(ref.channel().publish("b"))
    second = actor_ref("wire-1").options(idempotency_key="second")
    apply = store.commit

    async def commit_and_die(commit: Commit) -> None:
        await apply(commit)
        runtime.vanish()

    store.commit = commit_and_die  # type: ignore[method-assign]
    lost = asyncio.ensure_future(second.channel().publish("b"))
    await until(lambda: len(items_of(store, "wire-1")) == 2, "the commit of the silo that is lost")
    assert not lost.done()
    lost.cancel()
    start(Wire, store=ScriptedStore(store.data))
    await soon(ref.channel().publish("a"))
    await soon(second.channel().publish("b"))
    await soon(second.channel().publish("b"))
    await soon(actor_ref("wire-1").channel().publish("c"))
    assert [event.data for event in await read("wire-1", 3)] == ["a", "b", "c"]


async def test_a_repeated_request_appends_once(start: Start, store: ScriptedStore) -> None:
    """The silo between dies, and sends the same message again: with a producer, and without."""
    runtime = start(Board, store=store)
    for producer in (None, ["p", 0, 0]):
        payload = codec.encode(["output", ["a", "b"], False, producer])
        for attempt in (0, 1, 1):
            request = Request(
                runtime.next_id(), "board-1", APPEND, payload, Mode.ASK, 3.0, f"m {producer}", attempt=attempt
            )
            answer, _ = await soon(runtime.outbound.deliver(request))
            assert isinstance(answer, Reply)
    assert [event.data for event in await read("board-1", 4)] == ["a", "b", "a", "b"]
    assert len(items_of(store, "board-1")) == 4


async def test_producers_append_in_order_and_once(start: Start, store: ScriptedStore) -> None:
    start(Board, store=store)
    assert (await append("a", producer=("p", 0, 0)))[:3] == ["ok", 0, 0]
    assert (await append("a", producer=("p", 0, 0)))[:3] == ["duplicate", 0, 0]
    assert (await append("c", producer=("p", 0, 2)))[:3] == ["gap", 0, 1]
    assert (await append("b", "c", producer=("p", 0, 1)))[:3] == ["ok", 0, 1]
    assert (await append("x", producer=("q", 3, 0)))[:3] == ["ok", 3, 0]
    assert (await append("x", producer=("q", 2, 1)))[:3] == ["fenced", 3, 0]
    assert (await append("x", producer=("q", 4, 1)))[0] == "invalid"
    start(Board, store=ScriptedStore(store.data))
    assert (await append("b", "c", producer=("p", 0, 1)))[0] == "duplicate", "also after a restart"
    assert (await append("d", producer=("p", 0, 2)))[0] == "ok"
    assert (await append("e", producer=("p", 1, 0)))[0] == "ok"
    assert (await append("f", producer=("p", 0, 3)))[:3] == ["fenced", 1, 0]
    assert [event.data for event in await read("board-1", 6)] == ["a", "b", "c", "x", "d", "e"]
    assert len(items_of(store, "board-1")) == 6


async def test_a_producer_may_have_several_appends_under_way(start: Start, store: ScriptedStore) -> None:
    start(Board, store=store)
    answers = await asyncio.gather(*(append(n, producer=("p", 0, n)) for n in range(20)))
    assert [answer[0] for answer in answers] == ["ok"] * 20
    assert [event.data for event in await read("board-1", 20)] == [*range(20)]


async def test_a_repeat_is_not_acknowledged_before_what_it_repeats_is_durable(
    start: Start, store: ScriptedStore
) -> None:
    start(Board, store=store)
    await append("a", producer=("p", 0, 0))
    store.hold()
    first = asyncio.ensure_future(append("b", producer=("p", 0, 1)))
    await soon(store.waiting.wait())
    again = asyncio.ensure_future(append("b", producer=("p", 0, 1)))
    await settle()
    assert not again.done()
    store.let_go()
    assert [(await soon(first))[0], (await soon(again))[0]] == ["ok", "duplicate"]


async def test_many_producers_are_told_apart_and_forgotten_when_they_are_silent(
    start: Start, store: ScriptedStore
) -> None:
    clock = ManualClock()
    start(Board, store=store, clock=clock)

    def known() -> int:
        return sum(key.startswith(records.PRODUCER) for key in store.data.records["board-1"].records)

    for n in range(200):
        await append(n, producer=(f"p{n}", 0, 0))
    for n in range(200):
        assert (await append(n, producer=(f"p{n}", 0, 0)))[0] == "duplicate"
        assert (await append(n, producer=(f"p{n}", 0, 1)))[0] == "ok"
    assert known() == 200
    clock.monotonic += 23 * 3600
    assert (await append(0, producer=("p7", 0, 2)))[0] == "ok"
    clock.monotonic += 2 * 3600
    assert (await append(0, producer=("p7", 0, 2)))[0] == "duplicate", "it was heard of since"
    assert (await append(0, producer=("p8", 0, 2)))[0] == "gap", "it was forgotten"
    for n in range(40):
        await append(n, producer=(f"new{n}", 0, 0))
    assert known() <= 42, "those that are silent are removed"
    assert (await append(0, producer=("p7", 0, 3)))[0] == "ok"


async def test_an_append_is_one_commit(start: Start, store: ScriptedStore) -> None:
    start(Board, store=store)
    await append("first")
    before = store.attempts
    await append(*range(50), producer=("p", 0, 0))
    assert store.attempts == before + 1
    before = store.attempts
    await append(*range(50))
    assert store.attempts == before + 1


async def test_appending_and_closing_in_one(start: Start, store: ScriptedStore) -> None:
    start(Board, store=store)
    assert (await append("a", close=True, producer=("p", 0, 0)))[0] == "ok"
    assert (await append("a", close=True, producer=("p", 0, 0)))[0] == "duplicate"
    assert (await append(close=True))[0] == "ok"
    with pytest.raises(ChannelClosed):
        await append("late", close=True)
    with pytest.raises(ChannelClosed):
        await append("late", producer=("p", 0, 1))
    assert await read_to_the_end("board-1") == [(0, "a", "item"), (1, True, "closed")]


async def test_who_appends_and_closes_waits_for_running_turns(start: Start, store: ScriptedStore) -> None:
    Closer.gate, Closer.running = asyncio.Event(), asyncio.Event()
    start(Board, store=store)
    telling = asyncio.ensure_future(actor_ref("board-1").tell_slowly("a", "b"))
    await soon(Closer.running.wait())
    closing = asyncio.ensure_future(append("c", close=True))
    await settle()
    assert not closing.done()
    Closer.gate.set()
    await soon(telling)
    await soon(closing)
    assert [event[1] for event in await read_to_the_end("board-1")] == ["a", "b", "c", True]


async def test_only_public_classes_are_appended_to(start: Start, store: ScriptedStore) -> None:
    class Fleeting(Actor, public=True, persist="never"):
        pass

    start(Wire, Fleeting, store=store)
    with pytest.raises(NotAuthorized):
        await append("a", address="wire-1")
    with pytest.raises(UnknownHandler, match="no channels"):
        await append("a", address="fleeting-1")


async def test_a_reader_that_leaves_at_once_does_not_keep_its_actor_awake(start: Start) -> None:
    """Its turn has a task by then, which has not begun yet."""
    runtime = start(Wire)
    await actor_ref("wire-1").tell("a")
    activation = runtime.activations["wire-1"]
    arguments = codec.encode(["output", None])
    activation.accept(Request(1_000, "wire-1", SUBSCRIBE, arguments, Mode.STREAM, 0.0, "m"), runtime.local)
    assert activation._beside is not None
    next(iter(activation._beside)).leave()
    activation.request_deactivation()
    await until(lambda: "wire-1" not in runtime.activations, "the actor sleeps")


async def test_readers_that_leave_while_they_wait_are_forgotten(start: Start) -> None:
    runtime = start(Wire)
    await actor_ref("wire-1").tell("a")
    log = runtime.activations["wire-1"].durable_side.channel("output")
    leaving = [asyncio.create_task(read("wire-1", 2)) for _ in range(3)]
    staying = asyncio.create_task(read("wire-1", 2))
    await until(lambda: len(log._waiting or ()) == 4, "all wait")
    for reader in leaving:
        reader.cancel()
    await until(lambda: len(log._waiting or ()) == 1, "one waits")
    await actor_ref("wire-1").tell("b")
    assert [event.data for event in await staying] == ["a", "b"]
    await until(lambda: not log._waiting, "nobody waits")
