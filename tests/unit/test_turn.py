"""Turns: timeouts, cancellation, and the items of generators."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors import Actor, ActorFailed, Timeout, actor_ref, handler
from actors.calls import STREAM_CREDIT
from actors.envelope import item_cost
from actors.errors import SerializationFailed
from actors.settings import Settings
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until

# -- timeouts and cancelled callers ---------------------------------------------------------------------------------


class Gated:
    """An actor class whose ``wait`` returns when told, and a log of what ran."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = asyncio.Event()
        self.log: list[Any] = []
        outer = self

        class Worker(Actor):
            @handler
            async def wait(self) -> str:
                outer.running.set()
                await outer.gate.wait()
                outer.log.append("wait ends")
                return "waited"

            @handler
            async def note(self, value: Any) -> Any:
                outer.log.append(value)
                return value

            @handler
            async def items(self, n: int) -> Any:
                outer.log.append("items")
                for i in range(n):
                    yield i

        self.actor = Worker


async def test_a_handler_that_never_returns_is_a_timeout_for_the_caller(loop_time: LoopTime, start: Start) -> None:
    work = Gated()
    start(work.actor)
    ref = actor_ref("worker-1")
    call = asyncio.ensure_future(ref.options(timeout=10).wait())
    await soon(work.running.wait())
    await loop_time.jump(9)
    assert not call.done()
    await loop_time.jump(2)
    with pytest.raises(Timeout, match=r"worker-1\.wait"):
        await soon(call)


async def test_the_actor_is_free_only_when_the_turn_that_timed_out_has_really_ended(
    loop_time: LoopTime, start: Start
) -> None:
    work = Gated()
    start(work.actor)
    ref = actor_ref("worker-1")
    call = asyncio.ensure_future(ref.options(timeout=10).wait())
    await soon(work.running.wait())
    await loop_time.jump(11)
    with pytest.raises(Timeout):
        await soon(call)
    after = asyncio.ensure_future(ref.note("after"))
    await settle()
    assert work.log == []
    work.gate.set()
    assert await soon(after) == "after"
    assert work.log == ["wait ends", "after"]


async def test_a_message_whose_deadline_passed_in_the_queue_does_not_run(loop_time: LoopTime, start: Start) -> None:
    work = Gated()
    start(work.actor)
    ref = actor_ref("worker-1")
    first = asyncio.ensure_future(ref.options(timeout=None).wait())
    await soon(work.running.wait())
    expiring = [
        asyncio.ensure_future(ref.options(timeout=10).note("too late")),
        asyncio.ensure_future(anext(ref.options(timeout=10).items.stream(1))),
    ]
    patient = asyncio.ensure_future(ref.options(timeout=None).note("patient"))
    await soon(ref.options(timeout=10).note.send("accepted"))
    await loop_time.jump(20)
    for call in expiring:
        with pytest.raises(Timeout):
            await soon(call)
    work.gate.set()
    assert await soon(first) == "waited"
    assert await soon(patient) == "patient"
    await settle()
    assert work.log == ["wait ends", "patient", "accepted"], "an accepted one-way message has no deadline"


async def test_without_a_timeout_a_caller_waits_for_ever(loop_time: LoopTime, start: Start) -> None:
    work = Gated()
    start(work.actor)
    call = asyncio.ensure_future(actor_ref("worker-1").options(timeout=None).wait())
    await soon(work.running.wait())
    await loop_time.jump(10**7)
    assert not call.done()
    work.gate.set()
    assert await soon(call) == "waited"


async def test_the_default_timeout_is_that_of_the_settings(loop_time: LoopTime, start: Start) -> None:
    work = Gated()
    start(work.actor, settings=Settings(call_timeout=5))
    call = asyncio.ensure_future(actor_ref("worker-1").wait())
    await soon(work.running.wait())
    await loop_time.jump(6)
    with pytest.raises(Timeout):
        await soon(call)


async def test_cancelling_a_caller_ends_only_its_wait(start: Start) -> None:
    work = Gated()
    runtime = start(work.actor)
    call = asyncio.ensure_future(actor_ref("worker-1").wait())
    queued = asyncio.ensure_future(actor_ref("worker-1").note("queued"))
    await soon(work.running.wait())
    await settle()
    for task in (call, queued):
        task.cancel()
    await asyncio.gather(call, queued, return_exceptions=True)
    assert not runtime.calls, "nobody waits any more"
    work.gate.set()
    assert await soon(actor_ref("worker-1").note("after")) == "after"
    assert work.log == ["wait ends", "queued", "after"]


async def test_cancelling_a_caller_of_an_actor_that_activates_ends_only_its_wait(start: Start) -> None:
    gate = asyncio.Event()
    ran: list[object] = []

    class Slow(Actor):
        async def on_activate(self) -> None:
            await gate.wait()

        async def receive(self, message: object) -> None:
            ran.append(message)

    start(Slow)
    call = asyncio.ensure_future(actor_ref("slow-1").ask(1))
    await settle()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.set()
    await soon(actor_ref("slow-1").ask(2))
    assert ran[-1] == 2


async def test_a_turn_that_cancels_itself_fails_alone(start: Start) -> None:
    class Cancels(Actor):
        async def receive(self, message: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        @handler
        async def fine(self) -> str:
            return "fine"

    start(Cancels)
    with pytest.raises(ActorFailed, match="CancelledError"):
        await soon(actor_ref("cancels-1").ask())
    assert await soon(actor_ref("cancels-1").fine()) == "fine"


async def test_a_handler_that_raises_a_library_error_itself_is_rolled_back(start: Start, store: ScriptedStore) -> None:
    class Borrows(Actor):
        state: dict[str, int]

        async def receive(self, message: object) -> None:
            self.state["n"] = 1
            raise SerializationFailed("my own")

        @handler
        async def look(self) -> dict[str, int]:
            return self.state

    start(Borrows, store=store)
    with pytest.raises(ActorFailed, match="my own"):
        await soon(actor_ref("borrows-1").ask())
    assert await soon(actor_ref("borrows-1").look()) == {}


async def test_turns_of_one_actor_never_overlap(start: Start) -> None:
    inside: list[int] = []
    most: list[int] = []

    class Exclusive(Actor):
        async def receive(self, message: int) -> int:
            inside.append(message)
            most.append(len(inside))
            await asyncio.sleep(0)
            inside.remove(message)
            return message

        @handler
        async def quick(self, message: int) -> int:
            most.append(len(inside) + 1)
            return message

    start(Exclusive)
    ref = actor_ref("exclusive-1")
    calls = [ref.ask(n) if n % 3 else ref.quick(n) for n in range(60)]
    assert await soon(asyncio.gather(*calls)) == list(range(60))
    assert set(most) == {1}


async def test_turns_of_different_actors_do_overlap(start: Start) -> None:
    both = asyncio.Barrier(2)

    class Meets(Actor):
        async def receive(self, message: object) -> str:
            await both.wait()
            return self.key

    start(Meets)
    assert list(await soon(asyncio.gather(actor_ref("meets-1").ask(), actor_ref("meets-2").ask()))) == ["1", "2"]


# -- generators -----------------------------------------------------------------------------------------------------


class Pours:
    """An actor class with generators that note how far they got."""

    def __init__(self) -> None:
        self.produced = 0
        self.ended = asyncio.Event()
        self.gate = asyncio.Event()
        outer = self

        class Pourer(Actor):
            @handler
            async def pour(self, n: int, size: int = 0) -> AsyncIterator[Any]:
                try:
                    for i in range(n):
                        outer.produced += 1
                        yield i if not size else b"x" * size
                finally:
                    outer.ended.set()

            @handler
            async def pour_slowly(self, n: int) -> AsyncIterator[int]:
                for i in range(n):
                    await asyncio.sleep(0)
                    outer.produced += 1
                    yield i
                outer.ended.set()

            @handler
            async def break_off(self, n: int) -> AsyncIterator[int]:
                for i in range(n):
                    yield i
                raise ValueError("out of words")

            @handler
            async def pause(self) -> AsyncIterator[str]:
                yield "before"
                await outer.gate.wait()
                yield "after"

            @handler
            async def note(self) -> str:
                return "free"

        self.actor = Pourer


@pytest.mark.parametrize("n", [0, 1, STREAM_CREDIT, STREAM_CREDIT + 1, 1000])
@pytest.mark.parametrize("name", ["pour", "pour_slowly"])
async def test_all_items_arrive_in_order(start: Start, name: str, n: int) -> None:
    start(Pours().actor)
    stream = getattr(actor_ref("pourer-1"), name).stream(n)
    assert [item async for item in stream] == list(range(n))
    assert await soon(actor_ref("pourer-1").note()) == "free"


@pytest.mark.parametrize("n", [0, 1, 5, 200])
async def test_an_error_in_the_middle_comes_after_the_items_before_it(start: Start, n: int) -> None:
    start(Pours().actor)
    items = []
    with pytest.raises(ActorFailed, match="out of words") as caught:
        async for item in actor_ref("pourer-1").break_off.stream(n):
            items.append(item)  # noqa: PERF401
    assert items == list(range(n))
    assert type(caught.value.__cause__) is ValueError
    assert await soon(actor_ref("pourer-1").note()) == "free"


async def test_items_arrive_while_the_generator_runs(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    stream = actor_ref("pourer-1").pause.stream()
    assert await soon(anext(stream)) == "before"
    pours.gate.set()
    assert [item async for item in stream] == ["after"]


async def test_a_paused_reader_holds_up_the_generator_at_its_credit(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    stream = actor_ref("pourer-1").pour.stream(1000)
    taken = 0
    for _ in range(300):
        assert await soon(anext(stream)) == taken
        taken += 1
        await settle(5)
        assert pours.produced <= taken + STREAM_CREDIT + 1
    await settle()
    assert pours.produced >= taken, "it works ahead, though"
    assert [item async for item in stream] == list(range(taken, 1000))


async def test_large_items_take_more_of_the_credit(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    size = 4 * 2**20
    stream = actor_ref("pourer-1").pour.stream(40, size)
    assert len(await soon(anext(stream))) == size
    await settle()
    assert pours.produced <= 2 + STREAM_CREDIT // item_cost(b"x" * size) + 1
    assert len([item async for item in stream]) == 39


async def test_when_the_reader_leaves_early_the_generator_runs_to_its_end_and_the_actor_is_free(start: Start) -> None:
    pours = Pours()
    runtime = start(pours.actor)
    async for item in actor_ref("pourer-1").pour_slowly.stream(500):
        if item == 3:
            break
    await soon(pours.ended.wait())
    assert pours.produced == 500
    assert await soon(actor_ref("pourer-1").note()) == "free"
    assert not runtime.streams
    assert not runtime.calls


async def test_a_reader_that_leaves_a_generator_that_waits_for_credit_lets_it_go_on(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    stream = actor_ref("pourer-1").pour.stream(500)
    assert await soon(anext(stream)) == 0
    await settle()
    assert pours.produced < 500
    await stream.aclose()  # type: ignore[attr-defined]
    await soon(pours.ended.wait())
    assert pours.produced == 500


async def test_a_cancelled_reader_leaves_too(start: Start) -> None:
    pours = Pours()
    start(pours.actor)

    async def read() -> list[Any]:
        return [item async for item in actor_ref("pourer-1").pause.stream()]

    reader = asyncio.ensure_future(read())
    await settle()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    pours.gate.set()
    assert await soon(actor_ref("pourer-1").note()) == "free"


async def test_a_generator_that_is_sent_to_runs_without_a_reader(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    await soon(actor_ref("pourer-1").pour.send(300))
    await soon(pours.ended.wait())
    assert pours.produced == 300


async def test_a_stream_that_nobody_iterates_sends_nothing(start: Start) -> None:
    pours = Pours()
    runtime = start(pours.actor)
    stream = actor_ref("pourer-1").pour.stream(3)
    await settle()
    assert not runtime.activations
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_generator_that_stays_silent_is_a_timeout(loop_time: LoopTime, start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    stream = actor_ref("pourer-1").options(timeout=10).pause.stream()
    assert await soon(anext(stream)) == "before"
    waiting = asyncio.ensure_future(anext(stream))
    await settle()
    await loop_time.jump(11)
    with pytest.raises(Timeout, match=r"pourer-1\.pause"):
        await soon(waiting)
    pours.gate.set()
    assert await soon(actor_ref("pourer-1").note()) == "free"


async def test_the_timeout_of_a_stream_counts_from_item_to_item(loop_time: LoopTime, start: Start) -> None:
    steps: asyncio.Queue[int] = asyncio.Queue()

    class Stepper(Actor):
        @handler
        async def steps(self) -> Any:
            while (step := await steps.get()) >= 0:
                yield step

    start(Stepper)
    stream = actor_ref("stepper-1").options(timeout=10).steps.stream()
    for n in range(5):
        waiting = asyncio.ensure_future(anext(stream))
        await settle()
        await loop_time.jump(7)
        steps.put_nowait(n)
        assert await soon(waiting) == n
    steps.put_nowait(-1)
    with pytest.raises(StopAsyncIteration):
        await soon(anext(stream))


async def test_a_reader_may_take_its_time(loop_time: LoopTime, start: Start) -> None:
    """The deadline is for the actor's next item, not for what the reader does with the last."""
    start(Pours().actor)
    stream = actor_ref("pourer-1").options(timeout=10).pour.stream(200)
    items = []
    for _ in range(3):
        items.append(await soon(anext(stream)))
        await loop_time.jump(100)
    items += [item async for item in stream]
    assert items == list(range(200))


async def test_a_generators_cleanup_runs_when_an_item_cannot_be_sent(start: Start) -> None:
    cleaned: list[str] = []
    lock = threading.Lock()

    class Unsendable(Actor):
        @handler
        async def items(self) -> Any:
            try:
                yield lock
            finally:
                cleaned.append("cleaned")

        @handler
        async def note(self) -> str:
            return "free"

    start(Unsendable)
    with pytest.raises(SerializationFailed, match="item"):
        await soon(anext(actor_ref("unsendable-1").items.stream()))
    assert await soon(actor_ref("unsendable-1").note()) == "free"
    assert cleaned == ["cleaned"]


async def test_a_stream_may_be_read_by_an_actor(start: Start) -> None:
    pours = Pours()

    class Reader(Actor):
        async def receive(self, n: int) -> int:
            return sum([item async for item in actor_ref("pourer-1").pour.stream(n)])

    start(pours.actor, Reader)
    assert await soon(actor_ref("reader-1").ask(200)) == sum(range(200))


async def test_two_streams_of_one_actor_follow_each_other(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    first = actor_ref("pourer-1").pause.stream()
    assert await soon(anext(first)) == "before"
    second = asyncio.ensure_future(anext(actor_ref("pourer-1").pour.stream(1)))
    await settle()
    assert not second.done()
    pours.gate.set()
    assert [item async for item in first] == ["after"]
    assert await soon(second) == 0


async def test_a_generator_without_awaits_does_not_hold_up_the_loop_when_nobody_reads(start: Start) -> None:
    pours = Pours()
    start(pours.actor)
    await soon(actor_ref("pourer-1").pour.send(200_000))
    await until(lambda: pours.produced > 0, "its first item")
    assert pours.produced < 200_000, "the loop was never given back while it ran"
    await soon(pours.ended.wait())


async def test_a_reader_that_takes_nothing_is_left_behind(start: Start, loop_time: LoopTime) -> None:
    ended = asyncio.Event()

    class Pourer(Actor):
        @handler
        async def pour(self) -> AsyncIterator[int]:
            for n in range(1000):
                yield n
            ended.set()

    start(Pourer, settings=Settings(call_timeout=10))
    stream = actor_ref("pourer-1").pour.stream()
    assert await soon(anext(stream)) == 0
    await settle()
    assert not ended.is_set()
    await loop_time.jump(11)
    await soon(ended.wait())
    with pytest.raises(Timeout, match=r"pourer-1.pour: its reader took nothing for 10 s"):
        async for _ in stream:
            pass
