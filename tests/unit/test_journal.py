"""Steps and streams: what is journaled, what runs again, and what does not fit."""

import asyncio
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from actors import (
    Actor,
    ActorFailed,
    MessageParked,
    Retry,
    SerializationFailed,
    StepInterrupted,
    actor_ref,
    handler,
    records,
)
from actors.journal import Journal
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, settle, soon, until


class Halt(BaseException):
    """The silo dies here."""


@dataclass
class Result:
    values: list[Any] = field(default_factory=list)


class World:
    """What is outside of the system: bodies that ran, and where the silo dies."""

    def __init__(self, start: Start, store: ScriptedStore) -> None:
        self.start, self.store = start, store
        self.ran: list[str] = []
        self.die_at = ""
        self.runtime: Runtime
        self.hang = asyncio.Event()

    async def body(self, name: str, result: Any = None) -> Any:
        self.ran.append(name)
        if self.die_at == name:
            await self.die()
        return name if result is None else result

    async def die(self) -> None:
        self.die_at = ""
        self.runtime.vanish()
        await self.hang.wait()

    def boot(self, *actors: type[Actor]) -> None:
        self.runtime = self.start(*actors, store=ScriptedStore(self.store.data))
        self.runtime.spawn(self.runtime.keep_agenda())

    def state(self, address: str) -> Any:
        return self.store.state_of(address)

    def rows(self, address: str, kind: bytes) -> list[bytes]:
        record = self.store.data.records.get(address)
        return [key for key in (record.records if record else ()) if key.startswith(kind)]


@pytest.fixture
async def world(start: Start, store: ScriptedStore) -> World:
    return World(start, store)


async def test_a_finished_step_never_runs_again(world: World) -> None:
    class Agent(Actor):
        state: Result

        async def receive(self, message: Any) -> None:
            plan = await self.step("plan", world.body, "plan")
            draft = await self.step("draft", world.body, "draft")
            self.state.values = [plan, draft]

    world.die_at = "draft"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: world.ran == ["plan", "draft"], "the crash")
    world.boot(Agent)
    await until(lambda: world.state("agent-1") == {"values": ["plan", "draft"]}, "the recovery")
    assert world.ran == ["plan", "draft", "draft"]
    await until(lambda: not world.rows("agent-1", records.JOURNAL), "the journal is trimmed")


async def test_a_step_that_runs_once_is_not_run_again(world: World) -> None:
    class Agent(Actor):
        state: Result

        async def receive(self, message: Any) -> None:
            try:
                await self.step("charge", world.body, "charge", once=True)
            except Exception:
                self.state.values.append("swallowed")
            except StepInterrupted as interrupted:
                self.state.values.append(str(interrupted))

    world.die_at = "charge"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: world.ran == ["charge"], "the crash")
    world.boot(Agent)
    await until(lambda: world.state("agent-1"), "the recovery")
    assert "'charge'" in world.state("agent-1")["values"][0]
    assert world.ran == ["charge"]


async def test_parallel_repeated_nested_and_threaded_steps(world: World) -> None:
    class Agent(Actor):
        state: Result

        async def receive(self, message: Any) -> None:
            both = await asyncio.gather(*(self.step("part", world.body, f"part {n}") for n in range(3)))
            looped = [await self.step("loop", world.body, f"loop {n}") for n in range(3)]
            outer = await self.step("outer", self.outer)
            thread = await self.step("thread", functools.partial(sum, [1, 2, 3]))
            await self.step("last", world.body, "last")
            self.state.values = [both, looped, outer, thread]

        async def outer(self) -> list[Any]:
            return [await self.step("inner", world.body, "inner"), await self.step("inner", world.body, "inner 2")]

    world.die_at = "last"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: "last" in world.ran, "the crash")
    before = sorted(world.ran)
    world.boot(Agent)
    await until(lambda: world.state("agent-1"), "the recovery")
    assert world.state("agent-1")["values"] == [
        ["part 0", "part 1", "part 2"], ["loop 0", "loop 1", "loop 2"], ["inner", "inner 2"], 6,
    ]  # fmt: skip
    assert sorted(world.ran) == sorted([*before, "last"])


async def test_a_crash_inside_of_parallel_steps_reruns_only_the_unfinished(world: World) -> None:
    class Agent(Actor):
        state: Result

        async def receive(self, message: Any) -> None:
            slow, quick = await asyncio.gather(self.step("slow", self.slowly), self.step("quick", world.body, "quick"))
            self.state.values = [slow, quick]

        async def slowly(self) -> str:
            while world.die_at and not world.rows("agent-1", records.JOURNAL):  # noqa: ASYNC110
                await asyncio.sleep(0)
            return str(await world.body("slow"))

    world.die_at = "slow"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: "slow" in world.ran, "the crash")
    world.boot(Agent)
    await until(lambda: world.state("agent-1") == {"values": ["slow", "quick"]}, "the recovery")
    assert sorted(world.ran) == ["quick", "slow", "slow"]


async def test_values_and_exceptions_are_the_same_the_first_time_and_after_a_crash(world: World) -> None:
    seen: list[Any] = []

    class Agent(Actor):
        async def receive(self, message: Any) -> None:
            value = await self.step("value", world.body, "value", Result([1, (2, 3)]))
            try:
                await self.step("raises", self.raises)
            except ValueError as error:
                seen.append((value, type(error), error.args))
            await self.step("last", world.body, "last")

        async def raises(self) -> None:
            world.ran.append("raises")
            raise ValueError("no", 7)

    world.die_at = "last"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: "last" in world.ran, "the crash")
    world.boot(Agent)
    await until(lambda: world.ran.count("last") == 2, "the recovery")
    assert seen[0] == seen[1] == (Result([1, (2, 3)]), ValueError, ("no", 7))
    assert world.ran.count("raises") == 1


async def test_a_step_is_tried_again_as_often_as_it_says(world: World) -> None:
    class Agent(Actor):
        async def receive(self, attempts: int) -> Any:
            return await self.step("flaky", self.flaky, retry=Retry(attempts=attempts, delay=0))

        async def flaky(self) -> str:
            world.ran.append("flaky")
            if len(world.ran) < 3:
                raise ValueError("not yet")
            return "done"

    world.boot(Agent)
    with pytest.raises(ActorFailed, match="not yet"):
        await soon(actor_ref("agent-1").ask(2))
    assert await soon(actor_ref("agent-1").ask(2)) == "done"


async def test_what_cannot_be_journaled_or_run_here_is_a_clear_error(world: World) -> None:
    class Agent(Actor):
        @handler
        async def unserializable(self) -> None:
            await self.step("lock", world.body, "lock", asyncio.get_running_loop())

        @handler(readonly=True)
        async def readonly(self) -> None:
            await self.step("x", world.body, "x")

        @handler
        async def named(self, name: str) -> None:
            await self.step(name, world.body, "x")

        @handler
        async def not_callable(self) -> None:
            await self.step("x", 5)  # type: ignore[arg-type]

        @handler
        async def both(self) -> None:
            await self.step("x", world.body, "x", once=True, retry=Retry())

    class Volatile(Actor, persist="never"):
        async def receive(self, message: Any) -> None:
            await self.step("x", world.body, "x")

    world.boot(Agent, Volatile)
    ref = actor_ref("agent-1")
    with pytest.raises(ActorFailed, match="'lock'.*cannot be stored") as failed:
        await soon(ref.unserializable())
    assert isinstance(failed.value.__cause__, SerializationFailed)
    with pytest.raises(ActorFailed, match="only inside a running turn"):
        await soon(ref.readonly())
    for name in ("", "x" * 300, "a\nb"):
        with pytest.raises(ActorFailed, match="a step's name"):
            await soon(ref.named(name))
    with pytest.raises(ActorFailed, match="not callable"):
        await soon(ref.not_callable())
    with pytest.raises(ActorFailed, match="cannot be retried"):
        await soon(ref.both())
    with pytest.raises(ActorFailed, match='persist="turn"'):
        await soon(actor_ref("volatile-1").ask())
    assert world.ran == ["lock"]


async def test_large_results_are_kept_beside(world: World) -> None:
    class Agent(Actor):
        state: Result

        async def receive(self, message: Any) -> None:
            large = await self.step("large", world.body, "large", "x" * 5_000_000)
            await self.step("last", world.body, "last")
            self.state.values = [len(large)]

    world.die_at = "last"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: "last" in world.ran, "the crash")
    assert world.rows("agent-1", records.BESIDE)
    world.boot(Agent)
    await until(lambda: world.state("agent-1") == {"values": [5_000_000]}, "the recovery")
    assert world.ran == ["large", "last", "last"]
    await until(lambda: not world.rows("agent-1", records.BESIDE), "it goes with the journal")


# -- a journal that does not fit ------------------------------------------------------------------------------------


async def test_a_journal_that_does_not_fit_the_code_parks_the_message(world: World) -> None:
    def agent(first: str) -> type[Actor]:
        class Agent(Actor):
            state: Result

            async def receive(self, message: Any) -> Any:
                self.state.values.append(await self.step(first, world.body, first))
                self.state.values.append(await self.step("last", world.body, "last"))

        return Agent

    world.die_at = "last"
    world.boot(agent("plan"))
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: "last" in world.ran, "the crash")
    world.boot(agent("outline"))  # a deploy has renamed the step
    await until(lambda: world.rows("agent-1", records.PARKED), "the message is parked")
    assert world.ran == ["plan", "last"], "nothing was run that does not fit"
    assert world.state("agent-1") is None
    await soon(actor_ref("agent-1").send("another"))
    await until(lambda: world.state("agent-1") == {"values": ["outline", "last"]}, "the others go on")

    world.runtime.vanish()
    world.boot(agent("plan"))  # the deploy is taken back, and the operator retries
    [[_, _, row]] = await world.runtime.store.flagged(limit=10)
    parked = msgspec.msgpack.decode(row, type=records.Parked)
    assert "- not called  'plan'" in parked.reason
    assert "outline" in parked.reason
    await soon(world.runtime.outbound.ask(actor_ref("agent-1"), "$parked", ("retry", parked.request.message_id), {}))
    await until(lambda: world.state("agent-1")["values"][2:] == ["plan", "last"], "the retry")
    assert world.ran.count("plan") == 1
    assert not world.rows("agent-1", records.PARKED)


async def test_another_function_under_the_name_of_a_step_parks_the_message(world: World) -> None:
    async def charge() -> str:
        return str(await world.body("charge"))

    async def refund() -> str:
        return str(await world.body("refund"))

    choices = [charge, refund]

    class Agent(Actor):
        async def receive(self, message: Any) -> None:
            await self.step("bill", choices[0])
            await self.step("last", world.body, "last")

    world.die_at = "last"
    world.boot(Agent)
    await soon(actor_ref("agent-1").send("go"))
    await until(lambda: "last" in world.ran, "the crash")
    choices.reverse()
    world.boot(Agent)
    await until(lambda: world.rows("agent-1", records.PARKED), "the message is parked")
    assert world.ran == ["charge", "last"]


@pytest.mark.parametrize("action", ["skip", "drop"])
async def test_a_parked_message_is_skipped_or_dropped(world: World, action: str) -> None:
    class Agent(Actor):
        state: Result

        async def receive(self, message: Any) -> str:
            for name in names:
                await self.step(name, world.body, name)
            return "ran"

    names = ["one", "last"]
    world.die_at = "last"
    world.boot(Agent)
    ref = actor_ref("agent-1").options(idempotency_key="k")
    await soon(ref.send("go"))
    await until(lambda: "last" in world.ran, "the crash")
    names[:] = ["other"]
    world.boot(Agent)
    await until(lambda: world.rows("agent-1", records.PARKED), "the message is parked")
    [[_, _, row]] = await world.runtime.store.flagged(limit=10)
    message_id = msgspec.msgpack.decode(row, type=records.Parked).request.message_id
    await soon(world.runtime.outbound.ask(actor_ref("agent-1"), "$parked", (action, message_id), {}))
    for kind in (records.PARKED, records.JOURNAL, records.BESIDE):
        assert not world.rows("agent-1", kind)
    assert await soon(actor_ref("agent-1").ask("new")) == "ran"


async def test_who_waits_for_a_parked_message_is_told(world: World) -> None:
    class Agent(Actor):
        async def receive(self, message: Any) -> None:
            await self.step("one", world.body, "one")
            await self.step("last", world.body, "last")

    world.boot(Agent)
    asking = asyncio.ensure_future(actor_ref("agent-1").ask("go"))
    real = Journal.finish

    async def finish(self: Journal) -> None:
        raise self._mismatch("as a test has it")

    Journal.finish = finish  # type: ignore[method-assign]
    try:
        with pytest.raises(MessageParked, match="as a test has it"):
            await soon(asking)
    finally:
        Journal.finish = real  # type: ignore[method-assign]


# -- streams --------------------------------------------------------------------------------------------------------


class Teller(Actor):
    world: World
    asked: list[Any]

    async def receive(self, resume: bool) -> list[str]:
        told = [
            word
            async for word in self.stream_step(
                "draft", self.start, resume=self.resume if resume else None, channel="output"
            )
        ]
        await self.step("last", self.world.body, "last")
        return told

    async def start(self) -> AsyncIterator[str]:
        self.asked.append("start")
        return self.words(0)

    async def resume(self, told: list[str]) -> AsyncIterator[str]:
        self.asked.append(list(told))
        return self.words(len(told))

    async def words(self, begin: int) -> AsyncIterator[str]:
        for n in range(begin, 8):
            if n == 4 and self.world.die_at == "stream":
                while len(self.world.rows("teller-1", records.ITEM + b"output")) < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await self.world.die()
            yield f"w{n}"


@pytest.mark.parametrize("resume", [True, False])
async def test_a_stream_goes_on_after_a_crash(world: World, resume: bool) -> None:
    Teller.world, Teller.asked = world, []
    world.die_at = "stream"
    world.boot(Teller)
    await soon(actor_ref("teller-1").send(resume))
    await until(lambda: not world.die_at, "the crash")
    world.boot(Teller)
    shown: list[Any] = []
    async with asyncio.timeout(3):
        async for event in actor_ref("teller-1").channel("output").subscribe():
            if event.kind == "reset":
                shown = [entry for entry in shown if entry[0] < event.data]
            else:
                shown.append((event.offset, event.data))
            if [data for _, data in shown] == [f"w{n}" for n in range(8)]:
                break
    if resume:
        assert Teller.asked == ["start", ["w0", "w1", "w2", "w3"]]
        assert [offset for offset, _ in shown] == list(range(8))
    else:
        assert Teller.asked == ["start", "start"]
        assert [offset for offset, _ in shown] == list(range(5, 13))


@pytest.mark.parametrize("again", [["a", "b", "c"], ["b", "c"]])
async def test_steps_in_the_loop_of_a_stream_that_starts_anew_keep_their_results(
    world: World, again: list[str]
) -> None:
    tales = [["a", "b", "c"], again]

    class Reader(Actor):
        state: Result

        async def receive(self, message: Any) -> None:
            found = [await self.step(f"read {word}", world.body, word) async for word in self.stream_step("plan", plan)]
            await self.step("end", world.body, "end")
            self.state.values = found

    async def plan() -> AsyncIterator[str]:
        for word in tales.pop(0):
            while word == "c" and len(world.rows("reader-1", records.JOURNAL)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            yield word

    world.die_at = "c"
    world.boot(Reader)
    await soon(actor_ref("reader-1").send("go"))
    await until(lambda: world.ran == ["a", "b", "c"], "the crash")
    world.boot(Reader)
    await until(lambda: world.state("reader-1") == {"values": again}, "it goes on")
    assert world.ran == ["a", "b", "c", "c", "end"]
    await until(lambda: not world.rows("reader-1", records.JOURNAL), "the journal is trimmed")


async def test_a_step_in_the_loop_of_a_stream_is_journaled_with_the_items_before_it(world: World) -> None:
    class Reader(Actor):
        async def receive(self, message: Any) -> None:
            async for word in self.stream_step("plan", plan, resume=rest):
                await self.step(f"read {word}", world.body, word)

    async def plan() -> AsyncIterator[str]:
        for word in "abc":
            yield word

    async def rest(had: list[str]) -> AsyncIterator[str]:
        for word in "abc"[len(had) :]:
            yield word

    world.die_at = "b"
    world.boot(Reader)
    await soon(actor_ref("reader-1").send("go"))
    await until(lambda: world.ran == ["a", "b"], "the crash")
    paths = {key[17:].partition(b"\0")[0] for key in world.rows("reader-1", records.JOURNAL)}
    assert paths == {b"plan", b"read a"}
    world.boot(Reader)
    await until(lambda: not world.rows("reader-1", records.JOURNAL), "it goes on to its end")
    assert world.ran == ["a", "b", "b", "c"]


async def test_a_stream_that_ended_never_runs_again(world: World) -> None:
    Teller.world, Teller.asked = world, []
    world.die_at = "last"
    world.boot(Teller)
    await soon(actor_ref("teller-1").send(True))
    await until(lambda: "last" in world.ran, "the crash")
    world.boot(Teller)
    await until(lambda: world.ran == ["last", "last"], "the recovery")
    assert Teller.asked == ["start"]
    await until(lambda: not world.rows("teller-1", records.JOURNAL), "the journal is trimmed")
    assert len(world.rows("teller-1", records.ITEM + b"output")) == 8, "what was published stays"


async def test_leaving_a_stream_early_closes_its_source_and_keeps_what_came(world: World) -> None:
    closed: list[str] = []

    class Hasty(Actor):
        async def receive(self, message: Any) -> list[str]:
            told = []
            async for word in self.stream_step("draft", self.words, channel="output"):
                told.append(word)
                if len(told) == 3:
                    break
            return told

        async def words(self) -> AsyncIterator[str]:
            try:
                for n in range(100):
                    yield f"w{n}"
            finally:
                closed.append("closed")

    class Plain(Hasty):
        def words(self) -> Any:
            return super().words()

    world.boot(Plain)
    assert await soon(actor_ref("plain-1").ask()) == ["w0", "w1", "w2"]
    await until(lambda: closed == ["closed"], "the source is closed")
    assert len(world.rows("plain-1", records.ITEM + b"output")) == 3
    await settle()
    assert not world.rows("plain-1", records.JOURNAL)
