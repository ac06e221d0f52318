"""Reminders, timers, channels and deletion, in one process."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from actors import Actor, ActorFailed, Event, actor_ref, handler, records
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until


@dataclass
class Log:
    seen: list[Any] = field(default_factory=list)


class Clerk(Actor, idle_timeout=1e6):
    state: Log
    fails = False

    @handler
    async def set(self, name: str, after: float, every: float | None = None) -> None:
        await self.remind(name, after=after, every=every)

    @handler
    async def cancel(self, name: str) -> None:
        await self.cancel_reminder(name)

    @handler
    async def set_and_fail(self) -> None:
        await self.remind("never", after=0)
        raise ValueError

    @handler
    async def tell(self, *items: Any) -> None:
        for item in items:
            await self.publish(item)

    @handler
    async def tell_and_fail(self) -> None:
        await self.publish("never")
        raise ValueError

    @handler
    async def sleep(self) -> None:
        self.deactivate()

    @handler(readonly=True)
    async def seen(self) -> list[Any]:
        return self.state.seen

    @handler(readonly=True)
    async def publish_readonly(self) -> None:
        await self.publish("x")

    @handler
    async def start_timer(self, every: float | None) -> None:
        self.ticking = self.timer(self.tick, "tick", after=1, every=every)

    @handler
    async def stop_timer(self) -> None:
        self.ticking.cancel()

    async def tick(self, what: str) -> None:
        self.state.seen.append(what)

    async def on_reminder(self, name: str) -> None:
        self.state.seen.append((name, self.context.message_id))


def rows(store: ScriptedStore, address: str, kind: bytes) -> list[bytes]:
    record = store.data.records.get(address)
    return [key for key in (record.records if record else ()) if key.startswith(kind)]


def names(store: ScriptedStore) -> list[str]:
    state = store.state_of("clerk-1")
    return [entry[0] for entry in state["seen"]] if state else []


class Wall:
    """A clock whose both times pass with the loop's."""

    def __init__(self, loop_time: LoopTime) -> None:
        self._loop_time = loop_time
        self.ahead = 0.0

    def now(self) -> float:
        return self._loop_time.now()

    def time(self) -> float:
        return 1_700_000_000 + self._loop_time.now() + self.ahead


@pytest.fixture
async def wall(loop_time: LoopTime) -> Wall:
    return Wall(loop_time)


def boot(start: Start, store: ScriptedStore, wall: Wall) -> Runtime:
    runtime = start(Clerk, store=ScriptedStore(store.data), clock=wall)
    runtime.spawn(runtime.keep_agenda())
    return runtime


async def test_a_reminder_fires_once_when_it_is_due(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    boot(start, store, wall)
    await soon(actor_ref("clerk-1").set("call", 60))
    await loop_time.jump(59)
    assert names(store) == []
    await loop_time.jump(2)
    await until(lambda: names(store) == ["call"], "the reminder")
    await loop_time.jump(1000)
    assert names(store) == ["call"]
    assert store.data.records["clerk-1"].wake is None


async def test_a_reminder_wakes_a_sleeping_actor_on_another_silo(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    first = boot(start, store, wall)
    await soon(actor_ref("clerk-1").set("call", 3600))
    await soon(actor_ref("clerk-1").sleep())
    await until(lambda: not first.activations, "it sleeps")
    first.vanish()
    second = boot(start, store, wall)
    await loop_time.jump(1000)
    assert not second.activations
    await loop_time.jump(2700)
    await until(lambda: names(store) == ["call"], "the reminder")


async def test_a_periodic_reminder_catches_up_with_one_call_and_goes_on(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    first = boot(start, store, wall)
    await soon(actor_ref("clerk-1").set("beat", 10, 10))
    await loop_time.jump(11)
    await until(lambda: names(store) == ["beat"], "the first")
    first.vanish()
    await loop_time.jump(95)  # nobody is there
    boot(start, store, wall)
    await until(lambda: names(store) == ["beat"] * 2, "one for all that were missed")
    await loop_time.jump(10)
    await until(lambda: names(store) == ["beat"] * 3, "the next")
    ids = [entry[1] for entry in store.state_of("clerk-1")["seen"]]
    assert len(set(ids)) == 3
    await soon(actor_ref("clerk-1").cancel("beat"))
    await loop_time.jump(100)
    assert names(store) == ["beat"] * 3


async def test_a_reminder_is_set_with_the_turn_or_not_at_all(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    boot(start, store, wall)
    with pytest.raises(ActorFailed):
        await soon(actor_ref("clerk-1").set_and_fail())
    await loop_time.jump(10)
    assert rows(store, "clerk-1", records.REMINDER) == []
    assert names(store) == []


async def test_a_reminder_of_the_same_name_is_replaced(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    boot(start, store, wall)
    await soon(actor_ref("clerk-1").set("call", 10))
    await soon(actor_ref("clerk-1").set("call", 100))
    await loop_time.jump(50)
    assert names(store) == []
    await loop_time.jump(60)
    await until(lambda: names(store) == ["call"], "the reminder")


@pytest.mark.parametrize(("after", "every"), [(-1, None), (float("nan"), None), (1, 0), (1, -5), (1, float("inf"))])
async def test_times_that_make_no_sense_are_refused(start: Start, after: float, every: float | None) -> None:
    start(Clerk)
    with pytest.raises(ActorFailed, match="seconds or timedelta"):
        await soon(actor_ref("clerk-1").set("x", after, every))


async def test_many_pending_reminders_cost_nothing_and_are_not_read(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    runtime = boot(start, store, wall)
    await asyncio.gather(*(actor_ref(f"clerk-{n}").set("later", 10_000 + n) for n in range(300)))
    await asyncio.gather(*(actor_ref(f"clerk-{n}").sleep() for n in range(300)))
    await until(lambda: not runtime.activations, "all sleep")
    seen: list[int] = []
    due = runtime.store.due

    async def counted(*args: Any, **kwargs: Any) -> Any:
        found = await due(*args, **kwargs)
        seen.append(len(found))
        return found

    runtime.store.due = counted  # type: ignore[method-assign]
    for _ in range(5):
        await loop_time.jump(1)
    assert sum(seen) == 0
    assert not runtime.activations


# -- timers ---------------------------------------------------------------------------------------------------------


async def test_a_timer_ticks_as_turns_until_it_is_cancelled(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    boot(start, store, wall)
    ref = actor_ref("clerk-1")
    await soon(ref.start_timer(1))
    ticks: list[str] = []
    for n in range(1, 4):
        ticks.append("tick")
        await loop_time.jump(1.1)
        await until(lambda: (store.state_of("clerk-1") or {}).get("seen") == ticks, f"tick {n}")
    await soon(ref.stop_timer())
    await loop_time.jump(10)
    assert store.state_of("clerk-1")["seen"] == ["tick"] * 3


async def test_a_timer_ends_with_its_activation(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    runtime = boot(start, store, wall)
    await soon(actor_ref("clerk-1").start_timer(None))
    await soon(actor_ref("clerk-1").sleep())
    await until(lambda: not runtime.activations, "it sleeps")
    await loop_time.jump(10)
    assert not runtime.activations
    assert store.state_of("clerk-1") in (None, {"seen": []})


# -- channels -------------------------------------------------------------------------------------------------------


async def read(address: str, count: int, after: int | None = None, channel: str = "output") -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    async with asyncio.timeout(3):
        async for event in actor_ref(address).channel(channel).subscribe(after):
            found.append((event.offset, event.data))
            if len(found) == count:
                return found
    raise AssertionError(found)


async def test_readers_see_history_and_then_what_comes(start: Start, store: ScriptedStore) -> None:
    start(Clerk, store=store)
    ref = actor_ref("clerk-1")
    await soon(ref.tell("a", "b"))
    readers = [asyncio.ensure_future(read("clerk-1", 1000)) for _ in range(3)]
    await settle()
    for n in range(998):
        await ref.tell(n)
    everything = [*enumerate(["a", "b", *range(998)])]
    assert await soon(asyncio.gather(*readers)) == [everything] * 3
    assert await read("clerk-1", 500, after=499) == everything[500:]


async def test_what_a_turn_published_is_seen_with_its_commit_or_never(start: Start, store: ScriptedStore) -> None:
    start(Clerk, store=store)
    ref = actor_ref("clerk-1")
    await soon(ref.tell("first"))
    with pytest.raises(ActorFailed):
        await soon(ref.tell_and_fail())
    reader = asyncio.ensure_future(read("clerk-1", 2))
    await settle()
    store.hold()
    telling = asyncio.ensure_future(ref.tell("second"))
    await soon(store.waiting.wait())
    await settle()
    assert not reader.done(), "the output gate: no reader sees what is not durable"
    store.let_go()
    await soon(telling)
    assert await soon(reader) == [(0, "first"), (1, "second")]


async def test_a_reader_goes_on_over_the_death_of_the_owner(start: Start, store: ScriptedStore, wall: Wall) -> None:
    boot(start, store, wall)
    await soon(actor_ref("clerk-1").tell(*range(5)))
    found = await read("clerk-1", 5)
    boot(start, store, wall)
    await soon(actor_ref("clerk-1").tell(*range(5, 10)))
    assert found + await read("clerk-1", 5, after=4) == [*enumerate(range(10))]


async def test_anybody_may_publish_and_a_readonly_call_may_not(start: Start, store: ScriptedStore) -> None:
    start(Clerk, store=store)
    channel = actor_ref("clerk-1").channel("audit")
    await soon(channel.publish({"who": "client"}))
    assert await read("clerk-1", 1, channel="audit") == [(0, {"who": "client"})]
    with pytest.raises(ActorFailed, match="readonly"):
        await soon(actor_ref("clerk-1").publish_readonly())
    for name in ("", "a/b", "a\nb", "x" * 300):
        with pytest.raises(ValueError, match="a channel's name"):
            actor_ref("clerk-1").channel(name)


async def test_a_reader_that_leaves_lets_the_actor_sleep(start: Start, store: ScriptedStore) -> None:
    runtime = start(Clerk, store=store)
    await soon(actor_ref("clerk-1").tell("a"))
    await read("clerk-1", 1)
    await until(lambda: not runtime.activations["clerk-1"].busy, "nobody reads")


# -- deletion -------------------------------------------------------------------------------------------------------


async def test_delete_erases_everything_and_offsets_do_not_run_backwards(
    loop_time: LoopTime, start: Start, store: ScriptedStore, wall: Wall
) -> None:
    boot(start, store, wall)
    ref = actor_ref("clerk-1")
    await soon(ref.tell(*range(5)))
    await soon(ref.set("call", 60))
    kinds: list[str] = []

    async def follow() -> None:
        async for event in ref.channel("output").subscribe(after=4):
            kinds.append(event.kind)  # noqa: PERF401

    following = asyncio.ensure_future(follow())
    await settle()
    await soon(ref.options(idempotency_key="k").tell("keyed"))
    await soon(ref.delete())
    await soon(following)
    assert kinds == ["item", "closed"]
    record = store.data.records["clerk-1"]
    assert record.state is None
    assert record.wake is None
    left = {key[:1] for key in record.records}
    assert left <= {records.FLOOR, records.MESSAGE}, "where channels have come to, and the answer to the deletion"
    assert await soon(ref.seen()) == []
    await loop_time.jump(100)
    assert await soon(ref.seen()) == []
    await soon(ref.tell("new"))
    assert await read("clerk-1", 1) == [(7, "new")], "above the old ones, and the event that ended them"
    late = actor_ref("clerk-1").channel("output").subscribe(after=3)
    assert (await soon(anext(late))) == Event(6, None, "closed"), "a reader that was away hears of it, too"


async def test_what_waits_behind_a_deletion_runs_on_the_new_actor(start: Start, store: ScriptedStore) -> None:
    start(Clerk, store=store)
    ref = actor_ref("clerk-1")
    await soon(ref.tell("a"))
    deleting = asyncio.ensure_future(ref.delete())
    later = [asyncio.ensure_future(ref.tell.send(n)) for n in range(5)]
    await soon(asyncio.gather(deleting, *later))
    assert await read("clerk-1", 5) == [(n + 2, n) for n in range(5)]


def test_spans_of_time_may_be_timedeltas() -> None:
    from actors.durations import seconds

    assert seconds("after", timedelta(days=3)) == 3 * 86400


@pytest.mark.parametrize("persist", ["deactivation", "never"])
async def test_actors_that_are_not_durable_can_be_deleted_too(start: Start, store: ScriptedStore, persist: Any) -> None:
    class Diary(Actor, persist=persist):
        state: Log

        async def receive(self, message: Any) -> list[Any]:
            self.state.seen.append(message)
            return self.state.seen

        @handler
        async def sleep(self) -> None:
            self.deactivate()

    runtime = start(Diary, store=store)
    ref = actor_ref("diary-1")
    await soon(ref.ask(1))
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "it is stored")
    await soon(ref.ask(2))
    await soon(ref.delete())
    assert store.state_of("diary-1") is None
    assert await soon(ref.ask(3)) == [3]
