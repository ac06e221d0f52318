"""``wait_for`` and signals: a turn that waits durably, its activation asleep or not, and what brings it back."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from actors import Actor, ActorFailed, Busy, Interrupted, MailboxFull, TurnInterrupted, actor_ref, handler, records
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ManualClock, ScriptedStore, settle, soon, until

REF = actor_ref("desk-1")
DAY = 24 * 3600.0


@dataclass
class Case:
    begun: int = 0
    hurried: bool = False
    closed: str = ""


class World:
    """What is outside of the actor. ``asleep``: the activation goes as soon as it is idle."""

    def __init__(self, start: Start, store: ScriptedStore, loop_time: LoopTime) -> None:
        self._start, self._store, self._loop_time = start, store, loop_time
        self.clock = ManualClock()
        self.did: list[Any] = []
        self.go = asyncio.Event()
        self.stuck_at = "nothing"
        self.reached = asyncio.Event()
        self.runtime: Runtime
        self.boot()

    @property
    def store(self) -> ScriptedStore:
        assert isinstance(self.runtime.store, ScriptedStore)
        return self.runtime.store

    def boot(self) -> None:
        Desk.world = self
        self.runtime = self._start(Desk, store=ScriptedStore(self._store.data), clock=self.clock)
        self.runtime.spawn(self.runtime.keep_agenda())

    def crash(self) -> None:
        self.runtime.vanish()
        self.boot()

    async def note(self, what: Any) -> Any:
        self.did.append(what)
        if what == self.stuck_at:
            self.reached.set()
            await asyncio.Event().wait()
        return what

    async def until_it_waits(self, address: str = "desk-1") -> None:
        await until(lambda: self._waits(address), "the turn waits")

    def _waits(self, address: str) -> bool:
        found = self.runtime.activations.get(address)
        return found is not None and found.current is not None and found.current.rests

    async def fall_asleep(self, address: str = "desk-1") -> None:
        await self.until_it_waits(address)
        await self._loop_time.jump(400)
        await until(lambda: address not in self.runtime.activations, "it falls asleep")

    async def pass_time(self, seconds: float) -> None:
        """On every clock."""
        self.clock.monotonic += seconds
        await self._loop_time.jump(seconds)

    @property
    def wake(self) -> float | None:
        return self._store.data.records["desk-1"].wake


@pytest.fixture
async def world(loop_time: LoopTime, start: Start, store: ScriptedStore) -> World:
    return World(start, store, loop_time)


class Desk(Actor):
    state: Case
    world: ClassVar[World]

    @handler
    async def decide(self, what: str, timeout: float | None = None) -> Any:
        self.state.begun += 1
        await self.step("prepare", self.world.note, "prepared")
        try:
            answer = await self.wait_for(what, timeout=timeout)
        except TimeoutError:
            answer = "too late"
        await self.step("finish", self.world.note, answer)
        self.state.closed = str(answer)
        return answer

    @handler
    async def both(self) -> list[Any]:
        first = await self.wait_for("a", timeout=timedelta(days=3))
        return [first, await self.wait_for("a")]

    @handler
    async def together(self) -> Any:
        return await asyncio.gather(self.wait_for("a"), self.wait_for("b"))

    @handler
    async def beside_a_step(self) -> Any:
        return await asyncio.gather(self.step("slow", self._slow), self.wait_for("a"))

    @handler
    async def beside_something(self) -> Any:
        return await asyncio.gather(self._slow(), self.wait_for("a"))

    @handler
    async def step_in_a_task(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.step("slow", self._slow))
            await self.wait_for("a")

    async def _slow(self) -> str:
        self.world.did.append("slow begins")
        await self.world.go.wait()
        return "slow"

    @handler
    async def clean_up(self) -> None:
        try:
            await self.wait_for("never")
        except Interrupted as interrupted:
            await self.step("clean", self.world.note, str(interrupted))
            raise

    @handler
    async def own(self) -> Any:
        await self.signal("own", 5)
        return await self.wait_for("own")

    @handler
    async def case(self) -> tuple[int, bool, str]:
        return self.state.begun, self.state.hurried, self.state.closed

    @handler(readonly=True)
    async def begun(self) -> int:
        return self.state.begun

    @handler(control=True)
    async def hurry(self) -> None:
        self.state.hurried = True

    async def on_deactivate(self, reason: str) -> None:
        self.world.did.append(reason)

    @handler(control=True)
    async def go_away(self) -> None:
        self.deactivate()

    async def on_reminder(self, name: str) -> None:
        self.world.did.append(name)

    @handler(control=True)
    async def set_reminder(self) -> None:
        await self.remind("wake up", after=2 * DAY)


async def test_a_signal_continues_the_turn_that_waits_for_it(world: World) -> None:
    call = asyncio.ensure_future(REF.decide("approval"))
    await world.until_it_waits()
    await soon(REF.signal("something else", "no"))
    await settle()
    assert not call.done()
    await soon(REF.signal("approval", {"yes": 1}))
    assert await soon(call) == {"yes": 1}
    assert await rows(world, records.SIGNAL) == 1
    assert await soon(REF.case()) == (1, False, "{'yes': 1}")


async def rows(world: World, kind: bytes) -> int:
    return len(await world.store.read("desk-1", kind, bytes([kind[0] + 1]), limit=5000))


async def test_signals_wait_too_and_each_is_taken_once_in_order(world: World) -> None:
    for value in (1, 2, 3):
        await soon(REF.signal("a", value))
    assert await soon(REF.both()) == [1, 2]
    await soon(REF.signal("a", 4))
    assert await soon(REF.both()) == [3, 4]
    assert await rows(world, records.SIGNAL) == await rows(world, records.JOURNAL) == 0


async def test_it_takes_no_second_commit_to_take_a_signal(world: World) -> None:
    call = asyncio.ensure_future(REF.decide("approval"))
    await world.until_it_waits()
    await soon(REF.signal("approval"))
    await soon(call)
    taking = [commit for commit in world.store.commits if any(key[:1] == records.SIGNAL for key in commit.drop)]
    assert [{key[:1] for key in commit.put if key[:1] == records.JOURNAL} for commit in taking] == [{records.JOURNAL}]


async def test_parallel_waits(world: World) -> None:
    call = asyncio.ensure_future(REF.together())
    await until(lambda: len(world.store.commits) >= 2, "both wait")
    await soon(REF.signal("b", "B"))
    world.crash()
    await soon(REF.signal("a", "A"))
    await until(lambda: "desk-1" in world.runtime.activations, "it is active again")
    again = asyncio.ensure_future(REF.begun())
    await soon(again)
    await until(lambda: not world.runtime.activations["desk-1"].busy, "it ends")
    assert await rows(world, records.SIGNAL) == await rows(world, records.JOURNAL) == 0
    call.cancel()


async def test_a_signal_to_oneself(world: World) -> None:
    assert await soon(REF.own()) == 5


async def test_a_large_value_comes_back(world: World) -> None:
    large = "x" * 100_000
    await soon(REF.decide.send("approval"))
    await soon(REF.signal("approval", large))
    await until(lambda: world.did == ["prepared", large], "it ends")
    world.crash()
    assert (await soon(REF.case()))[2] == large


# -- asleep -----------------------------------------------------------------------------------------------------------


async def test_the_activation_goes_and_a_signal_brings_the_turn_back(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.fall_asleep()
    assert world.did == ["prepared", "idle"]
    assert world.wake is None
    await soon(REF.signal("approval", "yes"))
    await until(lambda: "yes" in world.did, "it continues")
    assert world.did == ["prepared", "idle", "yes"]  # what was done is not done again
    assert await soon(REF.case()) == (1, False, "yes")
    assert await rows(world, records.JOURNAL) == 0


async def test_what_the_turn_had_changed_is_not_stored_while_it_sleeps(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.fall_asleep()
    assert world.store.state_of("desk-1") is None


async def test_the_deadline_wakes_it(world: World) -> None:
    await soon(REF.decide.send("approval", 3 * DAY))
    await world.fall_asleep()
    assert world.wake == world.clock.time() + 3 * DAY
    await world.pass_time(2.9 * DAY)
    assert world.did == ["prepared", "idle"]
    await world.pass_time(0.2 * DAY)
    await until(lambda: "too late" in world.did, "it raises")
    assert world.did == ["prepared", "idle", "too late"]


async def test_a_signal_that_is_being_stored_at_the_deadline_is_in_time(world: World) -> None:
    await soon(REF.decide.send("approval", 10.0))
    await world.until_it_waits()
    world.store.hold()
    signalled = asyncio.create_task(REF.signal("approval", "yes"))
    await soon(world.store.waiting.wait())
    await world.pass_time(11.0)
    await settle()
    world.store.let_go()
    await soon(signalled)
    await until(lambda: len(world.did) > 1, "it goes on")
    assert world.did == ["prepared", "yes"]


async def test_a_timeout_that_was_raised_is_raised_again(world: World) -> None:
    await soon(REF.decide.send("approval", 3 * DAY))
    await world.until_it_waits()
    world.stuck_at = "too late"
    await world.pass_time(4 * DAY)
    await soon(world.reached.wait())
    world.clock.monotonic -= 4 * DAY  # even so
    world.stuck_at = "nothing"
    world.crash()
    await soon(REF.signal("approval", "yes"))
    await until(lambda: world.did.count("too late") == 2, "again")
    assert [what for what in world.did if what != "idle"] == ["prepared", "too late", "too late"]


async def test_no_waiting_costs_a_start(world: World) -> None:
    await soon(REF.decide.send("approval"))
    for _ in range(6):  # more often than a message may be lost with its silo
        await world.fall_asleep()
        await soon(REF.begun())
    await world.until_it_waits()
    for _ in range(6):
        world.crash()
        await soon(REF.begun())
        await world.until_it_waits()
    await soon(REF.signal("approval", "yes"))
    await until(lambda: "yes" in world.did, "it continues")


async def test_a_turn_that_takes_its_silo_along_after_the_wait_is_parked(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.until_it_waits()
    world.stuck_at = "yes"
    await soon(REF.signal("approval", "yes"))
    for _ in range(5):
        await soon(world.reached.wait())
        world.reached.clear()
        world.crash()
    await soon(REF.begun())
    await until(lambda: any(key[:1] == records.PARKED for key in world.store.data.records["desk-1"].records), "parked")
    assert world.did == ["prepared", *["yes"] * 5]


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_signal_is_not_lost_with_the_silo_that_took_it(world: World, asleep: bool) -> None:
    await soon(REF.decide.send("approval", 3 * DAY))
    await world.fall_asleep()
    if not asleep:
        await soon(REF.begun())
        await world.until_it_waits()
    world.stuck_at = "yes"
    await soon(REF.signal("approval", "yes"))
    await soon(world.reached.wait())
    assert world.wake is not None
    assert world.wake <= world.clock.time()  # somebody goes on at once, not in three days
    world.did.clear()
    world.stuck_at = "nothing"
    world.crash()
    await until(lambda: "yes" in world.did, "it continues by itself")


async def test_with_the_signal_s_own_commit_it_is_time_to_go_on(world: World) -> None:
    await soon(REF.decide.send("approval", 3 * DAY))
    await world.until_it_waits()
    await soon(REF.signal("approval", "yes"))
    (commit,) = [commit for commit in world.store.commits if any(key[:1] == records.SIGNAL for key in commit.put)]
    assert isinstance(commit.wake, float)
    assert commit.wake <= world.clock.time()


async def test_messages_wait_behind_it_asleep_or_not(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.fall_asleep()
    for _ in range(2):
        await soon(REF.decide.send("approval"))
        await world.fall_asleep()
    assert await rows(world, records.MESSAGE) == 3
    assert await soon(REF.begun()) == 0  # readonly calls run
    await soon(REF.hurry())
    for value in "abc":
        await soon(REF.signal("approval", value))
    await until(lambda: world.did.count("prepared") == 3, "all of them run")
    assert (await soon(REF.case()))[2] == "c"


async def test_the_store_is_told_that_only_the_deadline_matters(world: World) -> None:
    await soon(REF.decide.send("approval", 3 * DAY))
    await world.until_it_waits()
    deadline = world.clock.time() + 3 * DAY
    assert world.wake == deadline
    await soon(REF.decide.send("approval"))  # it has to wait, too
    assert world.wake == deadline
    await soon(REF.set_reminder())
    assert world.wake == world.clock.time() + 2 * DAY
    world.crash()
    await world.pass_time(2.5 * DAY)
    await until(lambda: world.wake == deadline, "the reminder waits behind the turn, and that for its deadline")
    assert "wake up" not in world.did
    await soon(REF.signal("approval"))
    await soon(REF.signal("approval"))
    await until(lambda: "wake up" in world.did, "all of them have run")


async def test_a_caller_that_waits_keeps_it_awake(world: World) -> None:
    call = asyncio.ensure_future(REF.options(timeout=None).decide("approval"))
    await world.until_it_waits()
    await world.pass_time(1000)
    await settle()
    assert world.did == ["prepared"]
    await soon(REF.signal("approval", "yes"))
    assert await soon(call) == "yes"


async def test_a_caller_that_waits_behind_it_keeps_it_awake(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.until_it_waits()
    call = asyncio.ensure_future(REF.options(timeout=None).case())
    await settle()
    await world.pass_time(1000)
    await settle()
    assert world.did == ["prepared"]
    await soon(REF.signal("approval", "yes"))
    assert (await soon(call))[2] == "yes"


async def test_a_caller_that_went_away_does_not(world: World) -> None:
    call = asyncio.ensure_future(REF.options(timeout=None).decide("approval"))
    await world.until_it_waits()
    call.cancel()
    await world.fall_asleep()


async def test_a_caller_that_waits_gets_the_answer_of_the_next_activation(world: World) -> None:
    call = asyncio.ensure_future(REF.options(timeout=None).decide("approval"))
    await world.until_it_waits()
    await soon(REF.go_away())
    await until(lambda: "requested" in world.did, "it goes")
    await world.until_it_waits()
    await soon(REF.signal("approval", "yes"))
    assert await soon(call) == "yes"


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_drain_waits_for_no_signal(world: World, hurried: bool) -> None:
    await soon(REF.decide.send("approval"))
    await world.until_it_waits()
    if hurried:
        await soon(REF.hurry())
    assert await soon(world.runtime.drain(limit=2)) == 0
    assert world.did == ["prepared", "shutdown"]
    world.crash()
    await soon(REF.signal("approval", "yes"))
    await until(lambda: "yes" in world.did, "it continues")


async def test_what_a_control_call_has_changed_keeps_it_awake(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.until_it_waits()
    await soon(REF.hurry())
    await world.pass_time(1000)
    assert "desk-1" in world.runtime.activations
    await soon(REF.signal("approval", "yes"))
    assert await soon(REF.case()) == (1, True, "yes")


@pytest.mark.parametrize("name", ["beside_a_step", "beside_something", "step_in_a_task"])
async def test_what_goes_on_beside_it_keeps_it_awake(world: World, name: str) -> None:
    await soon(getattr(REF, name).send())
    await until(lambda: "slow begins" in world.did, "it runs")
    await settle()
    await world.pass_time(1000)
    await settle()
    assert world.did == ["slow begins"]
    world.go.set()
    await soon(REF.signal("a"))
    await until(lambda: not world.runtime.activations["desk-1"].busy, "it ends")
    assert world.did == ["slow begins"]


# -- stopped ----------------------------------------------------------------------------------------------------------


async def test_an_interrupt_ends_the_wait(world: World) -> None:
    call = asyncio.ensure_future(REF.clean_up())
    await world.until_it_waits()
    await soon(REF.interrupt("enough"))
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert world.did == ["enough"]


async def test_an_interrupt_wakes_a_turn_that_sleeps_and_it_hears_it_where_it_waits(world: World) -> None:
    await soon(REF.clean_up.send())
    await world.fall_asleep()
    await soon(REF.interrupt("enough"))
    await until(lambda: "enough" in world.did, "it hears")
    await until(lambda: not world.runtime.activations["desk-1"].busy, "it ends")
    assert await rows(world, records.MESSAGE) + await rows(world, records.INTERRUPT) == 0


async def test_an_interrupt_is_heard_though_the_silo_dies(world: World) -> None:
    await soon(REF.clean_up.send())
    await world.until_it_waits()
    assert world.wake is None
    world.stuck_at = "enough"
    await soon(REF.interrupt("enough"))
    await soon(world.reached.wait())
    assert world.wake is not None
    world.stuck_at = "nothing"
    world.crash()
    await until(lambda: world.did == ["enough", "enough"], "it hears by itself")


async def test_other_messages_may_stop_it(world: World) -> None:
    await soon(REF.clean_up.send())
    await world.until_it_waits()
    with pytest.raises(Busy):
        await soon(REF.options(on_busy="reject").case())
    assert (await soon(REF.options(on_busy="interrupt").case()))[0] == 0


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_signals_that_nobody_takes_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.signals.MOST", 3)
    for n in range(3):
        await soon(REF.signal("a", n))
    with pytest.raises(MailboxFull, match=r"desk-1: 3 signals .* wait already"):
        await soon(REF.signal("b"))
    world.crash()
    with pytest.raises(MailboxFull):
        await soon(REF.signal("b"))
    assert await soon(REF.both()) == [0, 1]
    await soon(REF.signal("b"))


async def test_bad_names_and_places_are_errors(world: World) -> None:
    for name in ("", "x" * 300, "a\n"):
        with pytest.raises(ValueError, match="a signal's name"):
            await REF.signal(name)
        with pytest.raises(ActorFailed, match="name is printable"):
            await soon(REF.decide(name))
    with pytest.raises(ActorFailed, match="timeout must be"):
        await soon(REF.decide("a", -1))


async def test_a_deleted_actor_has_no_signals(world: World) -> None:
    await soon(REF.signal("a", 1))
    await soon(REF.delete())
    assert await rows(world, records.SIGNAL) == 0
    await soon(REF.signal("a", 2))
    await soon(REF.signal("a", 3))
    assert await soon(REF.both()) == [2, 3]


async def test_turns_are_told_of(world: World) -> None:
    await soon(REF.decide.send("approval"))
    await world.until_it_waits()
    await soon(REF.signal("approval"))
    told: list[str] = []
    async for event in REF.channel("$turns").subscribe():
        if not event.data["event"].startswith("step"):
            told.append(event.data["event"])
        if told and told[-1] == "committed":
            break
    assert told == ["started", "waiting", "continued", "committed"]
