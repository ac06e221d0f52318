"""Interrupts: who hears of them, what stays and what goes, at every point of a turn."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from actors import (
    Actor,
    ClusterUnavailable,
    Interrupted,
    StepInterrupted,
    TurnInterrupted,
    actor_ref,
    handler,
    records,
)
from actors.interruption import cancellable
from actors.ports import Commit, StoreUnavailable
from actors.ref import ActorRef
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until


@dataclass
class Notes:
    lines: list[str] = field(default_factory=list)


class Distant(ScriptedStore):
    """Answers no commit at once."""

    async def commit(self, commit: Commit) -> None:
        await asyncio.sleep(0)
        await super().commit(commit)


class World:
    """What is outside of the actor: what it did, and what it waits for."""

    def __init__(self, start: Start, store: ScriptedStore) -> None:
        self._start, self._store = start, store
        self.did: list[str] = []
        self.reached = asyncio.Event()
        self.hang = asyncio.Event()
        self.runtime: Runtime
        self.boot()

    def boot(self) -> None:
        Writer.world = self
        self.runtime = self._start(Writer, store=Distant(self._store.data))

    @property
    def store(self) -> ScriptedStore:
        assert isinstance(self.runtime.store, ScriptedStore)
        return self.runtime.store

    def crash(self) -> None:
        """The silo dies; the next one has the same store, and sees what is left there."""
        self.runtime.vanish()
        self.reached.clear()
        self.did.clear()
        self.boot()
        self.runtime.spawn(self.runtime.keep_agenda())

    async def wait(self) -> None:
        self.reached.set()
        await self.hang.wait()

    async def body(self, name: str) -> str:
        self.did.append(f"{name} begins")
        try:
            await self.wait()
        except asyncio.CancelledError:
            self.did.append(f"{name} cancelled")
            raise
        return name

    async def stubborn(self) -> str:
        try:
            await self.wait()
        except asyncio.CancelledError:
            self.did.append("ignored")
        return "late"

    async def quick(self, name: str) -> str:
        self.did.append(name)
        return name

    async def deltas(self) -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
            await self.wait()
            yield "c"
        finally:
            self.did.append("source closed")

    async def run(self, ref: ActorRef, name: str) -> "asyncio.Task[Any]":
        """Call a handler, and return when it waits for what never comes."""
        task: asyncio.Task[Any] = asyncio.ensure_future(getattr(ref, name)())
        await soon(self.reached.wait())
        self.reached.clear()
        return task


class Writer(Actor):
    state: Notes
    world: ClassVar[World]

    @handler
    async def wait(self) -> None:
        self.state.lines.append("dropped")
        await self.publish("stays")
        try:
            await self.world.wait()
        except Exception:
            self.world.did.append("swallowed")

    @handler
    async def finish(self) -> str:
        self.state.lines.append("begun")
        try:
            await self.world.wait()
        except Interrupted as interrupted:
            self.state.lines.append(f"stopped: {interrupted}")
            await self.step("save", self.world.quick, "saved")
        return "as far as it came"

    @handler
    async def step_once(self) -> str:
        result: str = await self.step("slow", self.world.body, "slow")
        return result

    @handler
    async def step_stubborn(self) -> str:
        result: str = await self.step("stubborn", self.world.stubborn)
        self.world.did.append("went on")
        return result

    @handler
    async def parallel(self) -> None:
        await asyncio.gather(*(self.step(name, self.world.body, name) for name in "xy"))

    @handler
    async def group(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.world.body("inner"))
            await self.world.wait()

    @handler
    async def stream(self) -> None:
        async for _ in self.stream_step("draft", self.world.deltas, channel="output"):
            pass

    @handler
    async def stream_and_wait(self) -> None:
        async for delta in self.stream_step("draft", self.world.deltas, channel="output"):
            if delta == "b":
                await self.world.wait()

    @handler
    async def items(self) -> AsyncIterator[str]:
        yield "one"
        await self.world.wait()

    @handler
    async def recover(self) -> str:
        await self.step("first", self.world.quick, "first")
        try:
            await self.step("second", self.world.body, "second")
        except Interrupted:
            self.world.did.append("heard")
            await self.world.wait()
            raise
        return "done"

    @handler
    async def recover_parallel(self) -> None:
        await self.step("first", self.world.quick, "first")
        try:
            await asyncio.gather(*(self.step(name, self.world.body, name) for name in "xy"))
        except Interrupted:
            self.world.did.append("heard")
            await self.world.wait()
            raise

    @handler
    async def late_step(self) -> None:
        await self.world.wait()
        await self.step("first", self.world.quick, "first")
        await self.step("slow", self.world.body, "slow")

    @handler
    async def tell(self, to: str) -> None:
        await self.step("tell", self._tell, to)

    async def _tell(self, to: str) -> None:
        await actor_ref(to).jot.send("told")
        await self.publish("told")

    @handler
    async def jot(self, line: str) -> None:
        self.state.lines.append(line)

    @handler
    async def clean_up(self, once: bool) -> str:
        try:
            await asyncio.gather(self.step("slow", self.world.body, "slow", once=once))
        except (Interrupted, StepInterrupted) as stopped:
            self.world.did.append(type(stopped).__name__)
            await self.step("note", self.world.quick, "note")
            await self.world.wait()
        return "stopped"

    @handler
    async def wait_between(self) -> str:
        await self.step("first", self.world.quick, "first")
        try:
            await self.world.wait()
            await self.step("second", self.world.quick, "second")
            await asyncio.Event().wait()
        except Interrupted:
            await self.step("sorry", self.world.quick, "sorry")
        return "stopped"

    @handler
    async def then_wait(self) -> object:
        try:
            await self.step("slow", self.world.body, "slow")
        except Interrupted:
            self.world.did.append("heard")
        return await self.wait_for("approval")

    @handler
    async def go_on(self) -> None:
        try:
            await self.world.wait()
        except Interrupted:
            self.world.did.append("went on")
            await self.world.wait()

    @handler
    async def save_when_stopped(self, names: str) -> None:
        try:
            await asyncio.gather(*(self.step(name, self.world.body, name) for name in names))
        except Interrupted:
            await self.step("save", self.world.quick, "saved")
            await self.world.wait()
        self.state.lines.append("as far as it came")

    @handler
    async def lines(self) -> list[str]:
        return self.state.lines


REF = actor_ref("writer-1")


async def published(count: int) -> list[object]:
    found: list[object] = []
    async for event in REF.channel("output").subscribe():
        found.append(event.data)
        if len(found) == count:
            break
    return found


async def test_an_interrupt_stops_what_waits_and_passes_except_exception(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "wait")
    await soon(REF.interrupt("enough"))
    with pytest.raises(TurnInterrupted, match=r"writer-1\.wait was interrupted: enough"):
        await soon(call)
    assert world.did == []
    assert await soon(REF.lines()) == []  # what it changed is dropped ...
    assert await soon(published(1)) == ["stays"]  # ... and what it published is not


async def test_a_handler_that_catches_it_replies_and_commits(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "finish")
    await soon(REF.interrupt("enough"))
    assert await soon(call) == "as far as it came"
    assert await soon(REF.lines()) == ["begun", "stopped: enough"]
    assert world.did == ["saved"]


async def test_a_step_s_body_is_cancelled_and_journals_nothing(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "step_once")
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert world.did == ["slow begins", "slow cancelled"]
    assert not [row for commit in world.runtime.store.commits for row in commit.put if row[:1] == records.JOURNAL]  # type: ignore[attr-defined]


async def test_a_body_that_will_not_be_cancelled_gives_no_late_result(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "step_stubborn")
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert world.did == ["ignored"]


@pytest.mark.parametrize("name", ["stream", "stream_and_wait"])
async def test_a_stream_is_closed_at_once_and_what_came_stays(start: Start, store: ScriptedStore, name: str) -> None:
    world = World(start, store)
    call = await world.run(REF, name)
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert world.did == ["source closed"]
    assert await soon(published(2)) == ["a", "b"]


async def test_parallel_steps_are_all_cancelled(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "parallel")
    await until(lambda: len(world.did) == 2, "both begin")
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert sorted(world.did) == ["x begins", "x cancelled", "y begins", "y cancelled"]


async def test_a_task_group_ends_with_it(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "group")
    await until(lambda: world.did, "the inner task begins")
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert world.did == ["inner begins", "inner cancelled"]


async def test_the_reader_of_a_generator_is_told(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    items = REF.items.stream()
    assert await soon(anext(items)) == "one"
    await soon(world.reached.wait())
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(anext(items))


async def test_without_a_running_turn_nothing_happens(start: Start, store: ScriptedStore) -> None:
    World(start, store)
    await soon(REF.interrupt("nobody"))
    assert await soon(REF.lines()) == []


async def test_the_next_message_runs_although_the_one_before_was_stopped_twice(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    call = await world.run(REF, "finish")
    after = asyncio.ensure_future(REF.lines())
    await asyncio.gather(REF.interrupt("one"), REF.interrupt("two"))
    assert await soon(call) == "as far as it came"
    assert await soon(after) == ["begun", "stopped: one"]


async def test_a_turn_that_hangs_in_its_cleanup_can_be_stopped_again(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    call = await world.run(REF, "recover")
    await soon(REF.interrupt())
    await soon(world.reached.wait())
    await soon(REF.interrupt())  # it has been told
    await settle()
    assert not call.done()
    await loop_time.jump(6)
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)


async def test_a_message_that_waits_is_stopped_by_its_id_and_never_begins(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "wait")
    receipt = await soon(REF.finish.send())
    await soon(REF.interrupt("not that", message_id=receipt.message_id))
    await settle()
    assert not call.done()
    world.hang.set()
    await soon(call)
    assert await soon(REF.lines()) == ["dropped"]


async def test_a_message_of_another_id_does_not_stop_what_runs(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.run(REF, "wait")
    await soon(REF.interrupt(message_id="another"))
    await settle()
    assert not call.done()
    world.hang.set()
    await soon(call)


async def test_an_interrupt_that_comes_while_the_turn_is_committed_changes_nothing(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    commits = world.runtime.store
    assert isinstance(commits, ScriptedStore)
    call = await world.run(REF, "wait")
    commits.hold()
    world.hang.set()
    await soon(commits.waiting.wait())
    stopping = asyncio.ensure_future(REF.interrupt("too late"))
    await settle()
    commits.let_go()
    await soon(stopping)
    await soon(call)
    assert await soon(REF.lines()) == ["dropped"]


async def test_it_survives_the_owner_and_stops_the_turn_that_runs_again(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    receipt = await soon(REF.recover.send())
    await soon(world.reached.wait())
    world.reached.clear()
    await soon(REF.interrupt("stop", message_id=receipt.message_id))
    await soon(world.reached.wait())  # it has heard, and hangs in its cleanup ...
    assert world.did == ["first", "second begins", "second cancelled", "heard"]
    world.runtime.vanish()  # ... when its silo dies

    world.did.clear()
    world.reached.clear()
    world.boot()
    await soon(REF.lines.send())
    await soon(world.reached.wait())
    assert world.did == ["heard"]  # the finished step does not run again, and the other one does not begin
    world.hang.set()
    assert await soon(REF.lines()) == []
    world.runtime.vanish()

    world.boot()
    world.did.clear()
    assert await soon(REF.lines()) == []
    assert world.did == []  # it is over
    assert await store.read("writer-1", records.INTERRUPT, records.DELTA, limit=9) == []


async def test_parallel_steps_that_run_again_do_not_begin_when_they_were_stopped(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    receipt = await soon(REF.recover_parallel.send())
    await soon(world.reached.wait())
    await soon(REF.interrupt("stop", message_id=receipt.message_id))
    await until(lambda: "heard" in world.did, "the turn hears of it")
    world.runtime.vanish()
    world.did.clear()
    world.boot()
    await soon(REF.lines.send())
    await until(lambda: "heard" in world.did, "the turn hears of it again")
    assert world.did == ["heard"]


# -- at the engine's own awaits -------------------------------------------------------------------------------------


async def test_what_a_step_did_leaves_though_the_turn_is_stopped_while_its_result_is_stored(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    await soon(REF.lines())
    world.store.hold()
    call = asyncio.ensure_future(REF.tell("writer-2"))
    await soon(world.store.waiting.wait())
    stopping = asyncio.ensure_future(REF.interrupt())
    await settle()
    world.store.let_go()
    await soon(stopping)
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert await soon(published(1)) == ["told"]
    await until(lambda: world.store.state_of("writer-2"), "it arrives")


async def test_such_a_turn_can_be_rolled_back(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    await soon(REF.lines())
    world.store.hold()
    call = asyncio.ensure_future(REF.tell("writer-2"))
    await soon(world.store.waiting.wait())
    after = asyncio.ensure_future(REF.options(on_busy="rollback").lines())
    await settle()
    world.store.let_go()
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert await soon(after) == []


async def test_an_interrupt_that_comes_while_a_turn_without_awaits_is_committed_leaves_nothing(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    world.store.hold()
    call = asyncio.ensure_future(REF.jot("x"))
    await soon(world.store.waiting.wait())
    stopping = asyncio.ensure_future(REF.interrupt("too late"))
    await settle()
    world.store.let_go()
    await soon(stopping)
    await soon(call)
    assert await store.read("writer-1", records.INTERRUPT, records.RUN, limit=9) == []


async def test_who_is_dropped_with_its_silo_hears_of_no_interrupt_any_more(start: Start, store: ScriptedStore) -> None:
    """It would go on, and nothing would end it."""
    world = World(start, store)
    call = await world.run(REF, "go_on")
    world.runtime.activations["writer-1"].interrupt("enough")
    await asyncio.sleep(0)  # it is about to hear
    world.runtime.stop_acting()
    await settle()
    assert world.did == []
    call.cancel()


def test_what_is_left_when_the_loop_ends_goes_in_any_order() -> None:
    async def body() -> None:
        await asyncio.sleep(0)

    inner = body()
    outer = cancellable(inner)
    outer.send(None)
    inner.close()
    outer.close()


# -- where the turn runs again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
async def test_steps_that_followed_on_an_interrupt_are_no_mismatch_where_the_turn_runs_again(
    loop_time: LoopTime, start: Start, store: ScriptedStore, once: bool
) -> None:
    world = World(start, store)
    await soon(REF.clean_up.send(once))
    await soon(world.reached.wait())
    world.reached.clear()
    await soon(REF.interrupt())
    await soon(world.reached.wait())
    assert world.did == ["slow begins", "slow cancelled", "Interrupted", "note"]
    world.crash()
    await until(lambda: "writer-1" in world.runtime.activations, "the turn is there again")
    await settle()
    await loop_time.jump(5)
    await soon(world.reached.wait())
    assert world.did == ["Interrupted"]


async def test_a_turn_that_had_begun_hears_of_it_again_where_a_failed_commit_lets_it_run_again(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    call = await world.run(REF, "recover")
    await soon(REF.interrupt())
    await soon(world.reached.wait())
    world.reached.clear()
    world.did.clear()
    world.store.refusals.append(StoreUnavailable("the disk is full"))
    with pytest.raises(ClusterUnavailable):
        await soon(REF.channel("output").publish("refused"))
    await soon(world.reached.wait())
    assert world.did == ["heard"]
    world.hang.set()
    with pytest.raises(TurnInterrupted):
        await soon(call)


async def test_who_is_stopped_before_it_has_caught_up_may_take_another_way(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    await soon(REF.wait_between.send())
    await soon(world.reached.wait())
    world.hang.set()
    await until(lambda: "second" in world.did, "the second step")
    await settle()
    world.hang.clear()
    world.crash()
    await soon(world.reached.wait())
    await soon(REF.interrupt())
    await settle()
    await loop_time.jump(5)
    await until(lambda: world.did == ["sorry"], "the other way")
    assert await store.read("writer-1", records.PARKED, records.CHANNEL, limit=1) == []


async def test_who_has_heard_of_it_may_wait_and_sleep(loop_time: LoopTime, start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    await soon(REF.then_wait.send())
    await soon(world.reached.wait())
    await soon(REF.interrupt())
    await until(lambda: "heard" in world.did, "it hears")
    await settle()
    assert store.data.records["writer-1"].wake is None, "there is nothing to do before the signal"
    await loop_time.jump(400)
    await until(lambda: "writer-1" not in world.runtime.activations, "it sleeps")
    world.did.clear()
    await soon(REF.signal("approval", 1))
    await settle()
    await loop_time.jump(5)
    await until(lambda: not world.runtime.activations["writer-1"].durable_side.rows, "the turn ends")
    assert world.did == ["heard"]
    assert await store.read("writer-1", records.PARKED, records.CHANNEL, limit=1) == []


async def test_a_turn_that_is_given_up_while_it_catches_up_is_not_parked(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    await soon(REF.late_step.send())
    await soon(world.reached.wait())
    world.hang.set()
    world.hang = asyncio.Event()
    await until(lambda: world.did == ["first", "slow begins"], "the second step begins")
    world.runtime.vanish()
    world.reached.clear()
    world.boot()
    await soon(REF.lines.send())
    await soon(world.reached.wait())  # it has yet to come to its first step again ...
    refusing = world.runtime.store
    assert isinstance(refusing, ScriptedStore)
    refusing.refusals.append(StoreUnavailable("disk full"))
    await soon(REF.lines.send())  # ... when a commit fails, and the activation with it
    world.hang.set()
    assert await soon(REF.lines()) == []
    rows = await store.read("writer-1", records.PARKED, records.CHANNEL, limit=9)
    assert rows == []


async def test_a_turn_that_is_stopped_while_it_catches_up_is_over(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    await soon(REF.late_step.send())
    await soon(world.reached.wait())
    world.hang.set()
    world.hang = asyncio.Event()
    await until(lambda: world.did == ["first", "slow begins"], "the second step begins")
    world.runtime.vanish()
    world.reached.clear()
    world.boot()
    await soon(REF.lines.send())
    await soon(world.reached.wait())  # it has yet to come to its first step again
    await soon(REF.interrupt("enough"))
    assert await soon(REF.lines()) == []
    assert await store.read("writer-1", records.JOURNAL, records.OUTBOX, limit=9) == []
    assert await store.read("writer-1", records.PARKED, records.CHANNEL, limit=9) == []


@pytest.mark.parametrize("names", ["x", "xy"])
async def test_a_step_that_ran_after_the_turn_had_heard_does_not_run_again(
    loop_time: LoopTime, start: Start, store: ScriptedStore, names: str
) -> None:
    """The turn comes to that step only if it hears of it again, and long before it would have been done by itself."""
    world = World(start, store)
    receipt = await soon(REF.save_when_stopped.send(names))
    await soon(world.reached.wait())
    await loop_time.jump(600)
    await soon(REF.interrupt("stop", message_id=receipt.message_id))
    await until(lambda: "saved" in world.did, "it has saved")
    await settle()
    world.runtime.vanish()

    world.did.clear()
    world.reached.clear()
    world.boot()
    await soon(REF.lines.send())
    await soon(world.reached.wait())
    assert world.did == []
    world.hang.set()
    assert await soon(REF.lines()) == ["as far as it came"]
