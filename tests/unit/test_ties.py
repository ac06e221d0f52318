"""``cancel_with_caller``: whose going stops what, and what goes on all the same."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from actors import Actor, Interrupted, TurnInterrupted, actor_ref, codec, handler
from actors.envelope import Mode, Reply, Request
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import FakeLink, LoopTime, ScriptedStore, settle, soon, until

REF = actor_ref("worker-1")
TIED = REF.options(cancel_with_caller=True)


class Worker(Actor):
    did: ClassVar[list[str]]
    go: ClassVar[asyncio.Event]

    @handler
    async def work(self) -> str:
        self.did.append("begun")
        try:
            await self.go.wait()
        except Interrupted as interrupted:
            self.did.append(f"stopped: {interrupted}")
            raise
        self.did.append("done")
        return "result"

    @handler
    async def items(self) -> AsyncIterator[int]:
        yield 1
        await self.work()

    @handler
    async def delegate(self, tied: bool) -> Any:
        return await (actor_ref("worker-2").options(cancel_with_caller=tied)).work()


@pytest.fixture
async def runtime(loop_time: LoopTime, start: Start) -> Runtime:
    Worker.did, Worker.go = [], asyncio.Event()
    return start(Worker, store=ScriptedStore())


async def begun(ref: Any = REF, *args: Any, name: str = "work") -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.ensure_future(getattr(ref, name)(*args))
    await until(lambda: "begun" in Worker.did, "it runs")
    return task


async def cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_caller_that_is_cancelled_stops_nothing_unless_it_said_so(runtime: Runtime) -> None:
    await cancelled(await begun())
    await settle()
    assert Worker.did == ["begun"]
    Worker.go.set()
    await until(lambda: Worker.did == ["begun", "done"], "it goes on")


async def test_with_its_caller_the_message_is_stopped_and_no_other(runtime: Runtime) -> None:
    first = await begun()
    waiting = asyncio.ensure_future(TIED.work())
    await settle()
    await cancelled(waiting)
    await settle()
    assert Worker.did == ["begun"]
    Worker.go.set()
    assert await soon(first) == "result"
    await until(lambda: not runtime.activations["worker-1"].busy, "the other one is over")
    assert Worker.did == ["begun", "done"]

    Worker.did.clear()
    Worker.go.clear()
    await cancelled(await begun(TIED))
    await until(lambda: Worker.did == ["begun", "stopped: its caller gave up"], "it is stopped")


@pytest.mark.parametrize("tied", [False, True])
async def test_a_stream_that_is_left(runtime: Runtime, tied: bool) -> None:
    items = REF.options(cancel_with_caller=tied).items.stream()
    assert await soon(anext(items)) == 1
    await until(lambda: Worker.did, "it runs")
    await items.aclose()  # type: ignore[attr-defined]
    await settle()
    assert ("stopped: its caller gave up" in Worker.did) is tied


async def test_a_stream_that_came_to_its_end_stops_nothing(runtime: Runtime) -> None:
    Worker.go.set()
    assert [item async for item in TIED.items.stream()] == [1]
    Worker.go.clear()
    call = await begun()
    await settle()
    assert not call.done()
    Worker.go.set()
    await soon(call)


@pytest.mark.parametrize("tied", [False, True])
async def test_an_interrupt_is_passed_on_by_who_asked(runtime: Runtime, tied: bool) -> None:
    call = await begun(REF, tied, name="delegate")
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    await settle()
    assert (len(Worker.did) == 2) is tied


async def test_a_turn_that_is_given_up_stops_nothing_as_it_asks_again(start: Start, store: ScriptedStore) -> None:
    Worker.did, Worker.go = [], asyncio.Event()
    runtime = start(Worker, store=store)
    await soon(REF.delegate.send(True))
    await until(lambda: Worker.did, "it runs")
    runtime.activations["worker-1"].drop("test")
    await settle()
    assert Worker.did == ["begun"]


def request(number: int, **more: Any) -> Request:
    payload = codec.encode_arguments("test", (), {}, lambda *_: False)
    more.setdefault("cancel_with_caller", True)
    return Request(number, "worker-1", "work", payload, Mode.ASK, 60.0, "m1", **more)


async def test_a_client_that_is_gone_for_some_seconds(loop_time: LoopTime, runtime: Runtime) -> None:
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [request(1)])
    await until(lambda: Worker.did, "it runs")
    link.closed = True
    runtime.inbound.on_closed(link, [])
    await settle()
    assert Worker.did == ["begun"]
    await loop_time.jump(6)
    await until(lambda: Worker.did == ["begun", "stopped: its caller is gone"], "it is stopped")


async def test_a_client_that_comes_again_in_time(loop_time: LoopTime, runtime: Runtime) -> None:
    link, other = FakeLink(trusted=True), FakeLink("client-1b", trusted=True)
    runtime.inbound.on_envelopes(link, [request(1)])
    await until(lambda: Worker.did, "it runs")
    link.closed = True
    runtime.inbound.on_closed(link, [])
    runtime.inbound.on_envelopes(other, [request(2, attempt=1)])
    await loop_time.jump(6)
    assert Worker.did == ["begun"]
    Worker.go.set()
    assert isinstance(await other.answer(), Reply)


async def test_a_client_that_tied_nothing_to_itself(loop_time: LoopTime, runtime: Runtime) -> None:
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [request(1, cancel_with_caller=False)])
    await until(lambda: Worker.did, "it runs")
    runtime.inbound.on_closed(link, [])
    await loop_time.jump(6)
    assert Worker.did == ["begun"]
    Worker.go.set()
