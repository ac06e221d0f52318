"""A turn that is interrupted while it cleans up after an interrupt, and whose owner is lost then."""

import asyncio
from typing import ClassVar

import msgspec

from actors import Actor, Interrupted, actor_ref, handler, records
from actors.interruption import GRACE, MOST
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until


class World:
    """What is outside of the actor: what it did, and where it waits."""

    def __init__(self, start: Start, loop_time: LoopTime, store: ScriptedStore) -> None:
        self._start, self._time, self._store = start, loop_time, store
        self.did: list[str] = []
        self.runtime: Runtime
        Stubborn.world = self
        self._boot()

    def _boot(self) -> None:
        self.runtime = self._start(Stubborn, store=ScriptedStore(self._store.data))

    def crash(self) -> None:
        """The silo dies; the next one has the same store, and sees what is left there."""
        self.runtime.vanish()
        self.did.clear()
        self._boot()
        self.runtime.spawn(self.runtime.keep_agenda())

    async def has_done(self, *what: str) -> None:
        await until(lambda: self.did == [*what], f"{what}, and not {self.did}")

    async def pass_grace(self) -> None:
        await settle()
        await self._time.jump(GRACE + 1)

    async def interrupt(self, *reasons: str) -> None:
        """Each of them while the turn cleans up after the one before."""
        for reason in reasons:
            assert await soon(REF.interrupt(reason))
            await until(lambda reason=reason: f"heard {reason}" in self.did, f"it hears of {reason}")  # type: ignore[misc]
            await self.pass_grace()

    async def wait(self, where: str) -> None:
        self.did.append(f"waits {where}")
        await asyncio.Event().wait()

    async def save(self, what: str) -> str:
        self.did.append(f"saves {what}")
        return what

    async def is_over(self) -> bool:
        """Whether nothing of it is left."""
        spans = [(records.JOURNAL, records.OUTBOX), (records.PARKED, records.CHANNEL), (records.INTERRUPT, records.RUN)]
        return not [row for span in spans for row in await self._store.read("stubborn-1", *span, limit=9)]


class Stubborn(Actor):
    """Goes on after it was interrupted, until it has heard of that twice more."""

    world: ClassVar[World]

    @handler
    async def bare(self) -> None:
        """Waits for nothing that is journaled."""
        for place in "abc":
            try:
                await self.world.wait(place)
            except Interrupted as interrupted:
                self.world.did.append(f"heard {interrupted}")
            if place != "c":
                await self.step(f"save {place}", self.world.save, place)

    @handler
    async def in_steps(self) -> None:
        """Waits in steps, also where it cleans up."""
        for place in "abc":
            try:
                await self.step(f"wait {place}", self.world.wait, place)
            except Interrupted as interrupted:
                self.world.did.append(f"heard {interrupted}")
            if place != "c":
                await self.step(f"save {place}", self.world.save, place)

    @handler
    async def in_parallel(self) -> None:
        """Waits in many steps at a time."""
        for place in "abc":
            try:
                await asyncio.gather(*(self.step(f"{place}{n}", self.world.wait, f"{place}{n}") for n in range(2)))
            except Interrupted as interrupted:
                self.world.did.append(f"heard {interrupted}")

    @handler
    async def with_limit(self) -> None:
        """Limits its own cleanup."""
        try:
            await self.step("wait a", self.world.wait, "a")
        except Interrupted as interrupted:
            self.world.did.append(f"heard {interrupted}")
            await self.step("save", self.world.save, "a")
        try:
            async with asyncio.timeout(GRACE / 2):
                await self.world.wait("b")
        except TimeoutError:
            self.world.did.append("gave up")
        try:
            await self.world.wait("c")
        except Interrupted as interrupted:
            self.world.did.append(f"heard {interrupted}")
        await self.world.wait("d")

    @handler
    async def often(self) -> None:
        while "heard last" not in self.world.did:
            try:
                await self.world.wait("")
            except Interrupted as interrupted:
                self.world.did.append(f"heard {interrupted}")


REF = actor_ref("stubborn-1")


async def test_it_hears_of_both_again_each_where_it_did(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, loop_time, store)
    await soon(REF.bare.send())
    await world.has_done("waits a")
    await world.interrupt("one", "two")
    await world.has_done("waits a", "heard one", "saves a", "waits b", "heard two", "saves b", "waits c")

    world.crash()
    await world.has_done("waits a", "heard one", "waits b")
    await world.pass_grace()
    await world.has_done("waits a", "heard one", "waits b", "heard two", "waits c")
    await world.pass_grace()
    assert world.did[-1] == "waits c", "nobody has interrupted it there"

    await soon(REF.interrupt("three"))
    await until(lambda: world.did[-1] == "heard three", "it hears of one more")
    await settle()
    assert await world.is_over()


async def test_steps_that_it_was_stopped_in_do_not_begin_again(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, loop_time, store)
    await soon(REF.in_steps.send())
    await world.has_done("waits a")
    await world.interrupt("one", "two")
    world.crash()
    await world.has_done("heard one", "heard two", "waits c")
    world.crash()
    await world.has_done("heard one", "heard two", "waits c")


async def test_parallel_steps_that_it_was_stopped_in_do_not_begin_again(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, loop_time, store)
    await soon(REF.in_parallel.send())
    await world.has_done("waits a0", "waits a1")
    await world.interrupt("one", "two")
    world.crash()
    await world.has_done("heard one", "heard two", "waits c0", "waits c1")


async def test_where_the_second_came_and_nothing_was_journaled_it_has_its_time_to_clean_up(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, loop_time, store)
    await soon(REF.with_limit.send())
    await world.has_done("waits a")
    await world.interrupt("one")
    await world.has_done("waits a", "heard one", "saves a", "waits b", "gave up", "waits c")
    await soon(REF.interrupt("two"))
    await until(lambda: world.did[-1] == "waits d", "it hears of the second")
    world.crash()
    await world.has_done("heard one", "waits b")
    await loop_time.jump(GRACE / 2)
    await world.has_done("heard one", "waits b", "gave up", "waits c")  # its limit was no interrupt
    await loop_time.jump(GRACE / 2)
    await world.has_done("heard one", "waits b", "gave up", "waits c", "heard two", "waits d")


async def test_one_that_was_interrupted_once_hears_of_it_where_it_waited_for_nothing_journaled(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, loop_time, store)
    await soon(REF.bare.send())
    await world.has_done("waits a")
    await world.interrupt("one")
    world.crash()
    await world.has_done("waits a", "heard one", "waits b")
    await world.pass_grace()
    assert world.did[-1] == "waits b"


async def test_it_may_be_interrupted_more_often_than_its_row_tells(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    world = World(start, loop_time, store)
    await soon(REF.often.send())
    await world.has_done("waits ")
    reasons = [str(number) for number in range(MOST + 3)]
    await world.interrupt(*reasons)
    ((_, row),) = await store.read("stubborn-1", records.INTERRUPT, records.RUN, limit=9)
    interrupt = msgspec.msgpack.decode(row, type=records.Interrupt)
    assert [interrupt.reason, *interrupt.later] == [*reasons[: MOST - 1], reasons[-1]]
    await soon(REF.interrupt("last"))
    await settle()
    assert await world.is_over()


def test_rows_of_the_release_before_are_read_and_it_reads_these() -> None:
    assert msgspec.convert(["enough", 1.0, True], records.Interrupt) == records.Interrupt("enough", 1.0, True)

    class Before(msgspec.Struct, array_like=True):
        reason: str
        at: float
        rollback: bool = False

    row = records.encode(records.Interrupt("one", 1.0, False, ["two"]))
    assert msgspec.msgpack.decode(row, type=Before) == Before("one", 1.0)
    finished = msgspec.msgpack.decode(records.encode([2, "f", 1.0, b"x"]), type=records.JournalRow)
    assert finished == records.Finished("f", 1.0, b"x", heard=0)
