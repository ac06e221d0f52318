"""The channel ``$turns``: what can be watched of a turn, in which commit it is told, and that it is told once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import pytest

from actors import Actor, ActorFailed, TurnInterrupted, actor_ref, handler, records
from actors.outbound import Outbound
from actors.ref import caller
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until

REF = actor_ref("author-1")
WATCHED = REF.options(headers={"$watch": "1"})


class Author(Actor):
    reached: ClassVar[asyncio.Event]
    hang: ClassVar[asyncio.Event]

    @handler
    async def wait(self) -> None:
        self.reached.set()
        await self.hang.wait()

    @handler
    async def think(self) -> None:
        await self._wait()
        await self.step("quick", self._nothing)

    async def _nothing(self) -> None:
        pass

    @handler
    async def wind(self) -> None:
        self.timer(self._nothing, after=60.0)

    @handler
    async def plain(self) -> int:
        return 1

    @handler
    async def write(self, text: str) -> str:
        assert not self.context.headers
        async for _ in self.stream_step("draft", self._letters, text, channel="output", resume=self._rest):
            pass
        await self.publish("end")
        return text.upper()

    async def _letters(self, text: str) -> AsyncIterator[str]:
        for letter in text:
            if letter == "!":
                self.reached.set()
                await self.hang.wait()
            yield letter

    async def _rest(self, done: list[str], text: str) -> AsyncIterator[str]:
        for letter in text[len(done) :]:
            yield letter

    @handler
    async def charge(self) -> None:
        await self.step("bill", self._wait, once=True)

    async def _wait(self) -> None:
        self.reached.set()
        await self.hang.wait()

    @handler
    async def outer(self) -> None:
        await self.step("outer", self._inner)

    async def _inner(self) -> None:
        await self.step("inner", self._wait)

    @handler
    async def fail(self) -> None:
        await self.step("step", self._fail)

    async def _fail(self) -> None:
        raise ValueError("no ink")


def boot(start: Start, store: ScriptedStore) -> Runtime:
    Author.reached, Author.hang = asyncio.Event(), asyncio.Event()
    return start(Author, store=ScriptedStore(store.data))


async def turns(count: int, *, steps: bool = False) -> list[dict[str, Any]]:
    """The first entries of the channel, with or without those about steps; times are checked and taken out."""
    found: list[dict[str, Any]] = []
    async for event in REF.channel("$turns").subscribe():
        assert event.turn == event.data["message_id"]
        assert event.data.pop("at") > 0
        assert event.data.pop("seconds", 0.0) >= 0
        if not steps:
            event.data.pop("steps", None)
        if steps or not event.data["event"].startswith("step"):
            found.append(event.data)
        if len(found) == count:
            break
    return found


async def test_a_turn_that_streams_is_told_of(start: Start, store: ScriptedStore) -> None:
    boot(start, store)
    await soon(REF.channel("output").publish("before"))
    assert await soon(REF.write("ab")) == "AB"
    started, committed = await soon(turns(2))
    shared = {"message_id": started["message_id"], "handler": "write", "key": ""}
    assert started == {"event": "started", "channels": {"output": 1}, **shared}
    assert committed == {"event": "committed", "published": {"output": [[1, 4]]}, **shared}


async def test_a_plain_turn_costs_nothing(start: Start, store: ScriptedStore) -> None:
    runtime = boot(start, store)
    assert await soon(REF.plain()) == 1
    assert isinstance(runtime.store, ScriptedStore)
    assert runtime.store.commits == []


async def test_a_watched_message_is_told_of_before_send_returns_and_its_result_with_its_end(
    start: Start, store: ScriptedStore
) -> None:
    runtime = boot(start, store)
    receipt = await soon(WATCHED.options(idempotency_key="k").write.send("a!"))
    rows = await runtime.store.read("author-1", records.ITEM + b"$turns\0", records.KEYED, limit=9)
    first = msgspec.msgpack.decode(records.channel_items.decode(rows[0][1]).data)
    assert (first["event"], first["message_id"], first["key"]) == ("accepted", receipt.message_id, "k")
    Author.hang.set()
    found = await soon(turns(3))
    assert [entry["event"] for entry in found] == ["accepted", "started", "committed"]
    assert found[2]["result"] == "A!"
    again = await soon(WATCHED.options(idempotency_key="k").write.send("a!"))
    assert again == receipt  # the same message
    assert len(await soon(turns(3))) == 3


async def test_a_repeat_joins_the_message_that_runs(start: Start, store: ScriptedStore) -> None:
    boot(start, store)
    receipt = await soon(WATCHED.options(idempotency_key="k").write.send("a!"))
    await soon(Author.reached.wait())
    assert await soon(WATCHED.options(idempotency_key="k").write.send("a!")) == receipt


async def test_failures_and_interrupts_are_told_apart(start: Start, store: ScriptedStore) -> None:
    boot(start, store)
    with pytest.raises(ActorFailed):
        await soon(REF.fail())
    call = asyncio.ensure_future(REF.write("a!"))
    await soon(Author.reached.wait())
    await soon(REF.interrupt("enough"))
    with pytest.raises(TurnInterrupted):
        await soon(call)
    found = await soon(turns(4))
    assert [entry["event"] for entry in found] == ["started", "failed", "started", "interrupted"]
    assert found[1]["error"] == {"type": "ValueError", "message": "no ink"}
    assert found[3]["reason"] == "enough"
    assert found[3]["published"] == {"output": [[0, 1]]}


async def test_a_turn_that_runs_again_is_resumed_and_ends_once(start: Start, store: ScriptedStore) -> None:
    runtime = boot(start, store)
    await soon(REF.write.send("a!"))
    await soon(Author.reached.wait())
    await settle()
    runtime.vanish()
    boot(start, store)
    await soon(REF.plain())
    found = await soon(turns(3))
    assert [entry["event"] for entry in found] == ["started", "resumed", "committed"]
    assert found[2]["published"] == {"output": [[0, 3]]}
    assert len({entry["message_id"] for entry in found}) == 1
    rows = await store.read("author-1", records.RUN, records.RUN + b"\xff", limit=9)
    assert rows == []


async def test_quick_steps_are_told_of_together_in_commits_that_are_made_anyway(
    start: Start, store: ScriptedStore
) -> None:
    runtime = boot(start, store)
    Author.hang.set()
    await soon(REF.outer())
    with pytest.raises(ActorFailed):
        await soon(REF.fail())
    assert isinstance(runtime.store, ScriptedStore)
    assert len(runtime.store.commits) == 5  # two steps and an end, a step and an end
    found = await soon(turns(5, steps=True))
    assert [entry["event"] for entry in found] == ["started", "committed", "started", "step_failed", "failed"]
    assert [name for name, seconds in found[1]["steps"] if seconds >= 0] == ["outer > inner", "outer"]
    assert found[3]["step"] == "step"
    assert found[3]["error"] == {"type": "ValueError", "message": "no ink"}
    assert [entry["handler"] for entry in found] == ["outer"] * 2 + ["fail"] * 3


async def test_a_slow_step_is_told_of_before_it_ends(loop_time: LoopTime, start: Start, store: ScriptedStore) -> None:
    boot(start, store)
    call = asyncio.ensure_future(REF.outer())
    await soon(Author.reached.wait())
    await loop_time.jump(1)
    found = await soon(turns(3, steps=True))
    assert [(entry["event"], entry.get("step")) for entry in found] == [
        ("started", None), ("step_started", "outer"), ("step_started", "outer > inner"),
    ]  # fmt: skip
    Author.hang.set()
    await soon(call)
    ends = (await soon(turns(6, steps=True)))[3:]
    assert [entry["event"] for entry in ends] == ["step_finished", "step_finished", "committed"]


async def test_a_step_that_runs_at_most_once_is_told_of_when_it_starts(start: Start, store: ScriptedStore) -> None:
    boot(start, store)
    call = asyncio.ensure_future(REF.charge())
    await soon(Author.reached.wait())
    found = await soon(turns(2, steps=True))
    assert [entry["event"] for entry in found] == ["started", "step_started"]
    Author.hang.set()
    await soon(call)
    assert [entry["event"] for entry in await soon(turns(4, steps=True))][2:] == ["step_finished", "committed"]


async def test_a_step_that_is_stopped_tells_nothing_more(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    boot(start, store)
    call = asyncio.ensure_future(REF.outer())
    await soon(Author.reached.wait())
    await soon(REF.interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(call)
    await loop_time.jump(1)
    await settle()
    rows = await store.read("author-1", records.item_prefix("$turns"), records.KEYED, limit=9)
    assert rows == []


async def test_while_somebody_reads_all_turns_are_told_of_from_their_beginning(
    start: Start, store: ScriptedStore
) -> None:
    boot(start, store)
    assert await soon(REF.plain()) == 1
    reading = asyncio.create_task(turns(5))
    outbound = caller()
    assert isinstance(outbound, Outbound)
    await until(lambda: outbound.runtime.activations["author-1"].durable_side.is_watched, "somebody reads")
    assert await soon(REF.plain()) == 1
    call = asyncio.ensure_future(REF.wait())
    await soon(Author.reached.wait())
    await settle()
    Author.hang.set()
    await soon(call)
    found = await soon(reading)
    told = [(entry["event"], entry["handler"]) for entry in found]
    assert told == [
        ("started", "plain"), ("committed", "plain"), ("accepted", "wait"), ("started", "wait"), ("committed", "wait"),
    ]  # fmt: skip
    assert "result" not in found[1]  # who may read the channel is not who has asked


async def entries(last: str) -> list[dict[str, Any]]:
    """Up to the first one of that event."""
    found: list[dict[str, Any]] = []
    async for event in REF.channel("$turns").subscribe():
        found.append(event.data)
        if event.data["event"] == last:
            break
    return found


async def until_read(runtime: Runtime) -> None:
    await until(lambda: runtime.activations["author-1"].durable_side.is_watched, "somebody reads")


async def test_who_comes_in_the_middle_of_a_turn_is_told_when_it_began_and_how_long_it_took(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    runtime = boot(start, store)
    began = runtime.clock.time()
    call = asyncio.ensure_future(REF.wait())
    await soon(Author.reached.wait())
    await loop_time.jump(60)
    assert isinstance(runtime.store, ScriptedStore)
    assert runtime.store.commits == []
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(3):
        async for event in REF.channel("$turns").subscribe():  # which tells it while the turn runs
            found.append(event.data)
            if event.data["event"] == "started":
                Author.hang.set()
            if event.data["event"] == "committed":
                break
    await soon(call)
    assert [entry["event"] for entry in found] == ["accepted", "started", "committed"]
    passed = runtime.loop.time()  # of which the wall clock knows nothing here
    assert found[1]["at"] == pytest.approx(began - 60, abs=1)
    assert found[2]["seconds"] == pytest.approx(60, abs=1)
    assert passed >= 60


async def test_what_waits_is_told_of_once_whoever_comes(start: Start, store: ScriptedStore) -> None:
    runtime = boot(start, store)
    await soon(REF.wait.send())
    await soon(Author.reached.wait())
    receipts = [await soon(REF.plain.send()) for _ in range(3)]
    assert [entry["event"] for entry in await soon(turns(5))] == ["accepted"] * 4 + ["started"]
    assert len(await soon(turns(5))) == 5  # another one, who is told nothing twice
    runtime.vanish()
    runtime = boot(start, store)
    reading = asyncio.create_task(turns(5 + 2 + 3 * 2))
    await soon(Author.reached.wait())
    await until_read(runtime)
    Author.hang.set()
    found = await soon(reading)
    assert [entry["event"] for entry in found[5:]] == ["resumed", "committed"] + ["started", "committed"] * 3
    told = [(entry["event"], entry["message_id"]) for entry in found]
    assert len(set(told)) == len(told)
    for receipt in receipts:
        mine = [event for event, message_id in told if message_id == receipt.message_id]
        assert mine == ["accepted", "started", "committed"]


async def test_a_turn_with_steps_began_when_its_handler_did(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    boot(start, store)
    call = asyncio.ensure_future(REF.think())
    await soon(Author.reached.wait())
    await loop_time.jump(60)
    Author.hang.set()
    await soon(call)
    ends = await soon(entries("committed"))
    assert ends[-1]["seconds"] == pytest.approx(60, abs=1)


async def test_turns_of_timers_are_told_of_while_somebody_reads(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    runtime = boot(start, store)
    await soon(REF.wind())
    reading = asyncio.create_task(turns(2))
    await until_read(runtime)
    await loop_time.jump(60)
    found = await soon(reading)
    assert [(entry["event"], entry["handler"]) for entry in found] == [("started", "$timer"), ("committed", "$timer")]
