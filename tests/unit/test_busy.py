"""What each ``on_busy`` does to a running turn, what stays of it, and that a silo's death changes none of that."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from actors import (
    Actor,
    ActorFailed,
    Busy,
    ConnectionLost,
    Interrupted,
    Rejected,
    Steered,
    TurnInterrupted,
    actor_ref,
    failure,
    handler,
    records,
)
from actors.calls import AnswerCall
from actors.envelope import Mode, Request
from actors.ref import ActorRef
from actors.runtime import Runtime
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, settle, soon, until


@dataclass
class Page:
    words: list[str] = field(default_factory=list)


class World:
    """What is outside of the actor."""

    def __init__(self, start: Start, store: ScriptedStore) -> None:
        self._start, self._store = start, store
        self.did: list[Any] = []
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.pauses = True
        self.runtime: Runtime
        self.boot()

    @property
    def store(self) -> ScriptedStore:
        assert isinstance(self.runtime.store, ScriptedStore)
        return self.runtime.store

    def boot(self) -> None:
        Poet.world = Loose.world = self
        self.reached.clear()
        self.runtime = self._start(Poet, Loose, store=ScriptedStore(self._store.data))

    def crash(self) -> None:
        """The silo dies; the next one has the same store."""
        self.runtime.vanish()
        self.did.clear()
        self.boot()
        self.runtime.spawn(self.runtime.keep_agenda())

    async def wait(self) -> None:
        self.reached.set()
        await self.go.wait()

    async def note(self, what: Any) -> None:
        self.did.append(what)

    async def words(self, *words: str) -> AsyncIterator[str]:
        for word in words:
            if word == "...":
                await self.wait()
            else:
                yield word

    async def begin(self, ref: ActorRef, *words: str, name: str = "write") -> "asyncio.Task[Any]":
        """A turn that runs and waits for ``go``."""
        task: asyncio.Task[Any] = asyncio.ensure_future(getattr(ref, name)(*words))
        await soon(self.reached.wait())
        self.reached.clear()
        return task


class Poet(Actor):
    state: Page
    world: ClassVar[World]

    async def receive(self, message: str) -> str:
        self.world.did.append(message)
        self.state.words.append(message)
        return message.upper()

    @handler
    async def write(self, *words: str) -> str:
        self.state.words.append("changed")
        try:
            async for _ in self.stream_step("draft", self.world.words, *words, channel="output"):
                pass
        except Interrupted:
            if "stubborn" not in words:
                raise
            if "hangs" in words:
                await self.world.wait()
            await self.publish("as far as it came")
        return "done"

    @handler
    async def listen(self, *rounds: str) -> list[Any]:
        """Look for messages, then wait, once for each round."""
        heard = []
        for name in rounds:
            heard.append([message async for message in self.steering()])
            await self.step(name, self.world.note, (name, heard[-1]))
            if name == "wait":
                await self.world.wait()
        if "fail" in rounds:
            raise ValueError("failed")
        return heard

    @handler
    async def listen_through(self, *rounds: str) -> list[Any]:
        heard: list[Any] = []
        try:
            for _ in rounds:
                heard += [message async for message in self.steering()]
                await self.world.wait()
        except Interrupted:
            pass
        return heard

    @handler
    async def listen_and_delete(self) -> list[Any]:
        await self.world.wait()
        heard = [message async for message in self.steering()]
        await self.delete()
        return heard

    @handler
    async def redirected(self, *words: str) -> list[Any]:
        heard = []
        async for word in self.stream_step("draft", self.world.words, *words, resume=self.rest, channel="output"):
            if word in "bd" and self.world.pauses:
                await self.world.wait()
            heard += [(word, message) async for message in self.steering()]
        self.world.did.append(heard)
        return heard

    async def rest(self, done: list[str], *words: str) -> AsyncIterator[str]:
        for word in (*words[len(done) :], "e"):
            yield word

    @handler
    async def pair(self, one: str, two: str) -> None:
        self.world.did.append((one, two))

    @handler
    async def pass_on(self, to: str, on_busy: Any) -> None:
        await actor_ref(to).options(on_busy=on_busy).send("passed on")

    @handler
    async def fail(self) -> None:
        raise ValueError("failed")

    @handler
    async def words(self) -> list[str]:
        return self.state.words

    @handler(control=True)
    async def beside(self) -> str:
        return "beside"


class Loose(Actor, persist="never"):
    world: ClassVar[World]

    async def receive(self, message: str) -> str:
        self.world.did.append(message)
        return message

    @handler
    async def listen(self) -> list[Any]:
        await self.world.wait()
        return [message async for message in self.steering()]


REF = actor_ref("poet-1")


async def shown(count: int, channel: str = "output") -> list[Any]:
    """What a reader of the channel has after so many entries, discarding what it is told to."""
    kept: list[tuple[int, Any]] = []
    seen = 0
    async for event in REF.channel(channel).subscribe():
        if event.kind == "reset":
            kept = [entry for entry in kept if entry[0] < event.data]
        else:
            kept.append((event.offset, event.data))
        seen += 1
        if seen == count:
            break
    return [data for _, data in kept]


# -- reject ---------------------------------------------------------------------------------------------------------


async def test_reject_is_refused_while_a_turn_runs_and_leaves_nothing(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    picky = REF.options(on_busy="reject")
    assert await soon(picky.ask("first")) == "FIRST"
    call = await world.begin(REF, "a", "...")
    commits = len(world.store.commits)
    for work in (picky.ask("second"), picky.send("second"), anext(picky.write.stream("x"), None)):
        with pytest.raises((Busy, Rejected)):
            await soon(work)
    assert len(world.store.commits) == commits
    world.go.set()
    assert await soon(call) == "done"
    assert await soon(picky.ask("third")) == "THIRD"
    assert world.did == ["first", "third"]


async def test_reject_is_refused_while_others_wait(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "...")
    queued = asyncio.ensure_future(REF.ask("queued"))
    await settle()
    world.go.set()
    with pytest.raises(Busy, match=r"poet-1\.receive: messages wait.*it did not run"):
        await soon(REF.options(on_busy="reject").ask("refused"))
    await soon(call)
    await soon(queued)


async def test_a_repeat_of_a_message_that_runs_is_not_refused(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    picky = REF.options(on_busy="reject", idempotency_key="k")
    call = await world.begin(picky, "...")
    again = asyncio.ensure_future(picky.write("..."))
    await settle()
    world.go.set()
    assert await soon(call) == await soon(again) == "done"


@pytest.mark.parametrize("attempt", [0, 1])
async def test_a_refusal_is_certain_for_the_first_attempt_only(start: Start, attempt: int) -> None:
    """An earlier one may be under way still, where nobody could be reached meanwhile."""
    loop = asyncio.get_running_loop()
    request = Request(1, "poet-1", "", b"", Mode.ASK, 1.0, "m", attempt=attempt)
    call = AnswerCall(request, loop.create_future())
    call.on_envelope(failure.refusal(1, Busy("words wait")), trusted=True)
    with pytest.raises(ConnectionLost if attempt else Busy, match="words wait"):
        await soon(call.future)


async def test_a_message_of_a_turn_that_is_rejected_is_dropped_and_those_behind_it_arrive(
    start: Start, store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(start, store)
    call = await world.begin(REF, "...")
    await soon(actor_ref("poet-2").pass_on("poet-1", "reject"))
    await until(lambda: "is dropped" in caplog.text, "that is logged")
    await soon(actor_ref("poet-2").pass_on("poet-1", "queue"))
    world.go.set()
    await soon(call)
    await until(lambda: world.did == ["passed on"], "the one that queues")


async def test_nobody_else_is_asked_whether_he_waits(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "...")
    assert await soon(REF.options(on_busy="reject").beside()) == "beside"
    world.go.set()
    await soon(call)


# -- interrupt ------------------------------------------------------------------------------------------------------


async def test_interrupt_stops_what_runs_keeps_what_it_published_and_runs_in_order(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    call = await world.begin(REF, "a", "b", "...")
    queued = asyncio.ensure_future(REF.ask("queued"))
    await settle()
    assert await soon(REF.options(on_busy="interrupt").ask("urgent")) == "URGENT"
    with pytest.raises(TurnInterrupted, match="message .* came"):
        await soon(call)
    assert world.did == ["queued", "urgent"]
    assert await soon(queued) == "QUEUED"
    assert await soon(REF.words()) == ["queued", "urgent"]
    assert await soon(shown(2)) == ["a", "b"]


@pytest.mark.parametrize("mode", ["ask", "send"])
async def test_the_message_and_its_interrupt_are_one_commit(start: Start, store: ScriptedStore, mode: str) -> None:
    world = World(start, store)
    call = await world.begin(REF, "a", "...")
    work = asyncio.ensure_future(getattr(REF.options(on_busy="interrupt"), mode)("urgent"))
    await until(lambda: world.did, "it runs")
    await soon(work)
    with pytest.raises(TurnInterrupted):
        await soon(call)
    kinds = [{key[:1] for key in commit.put} for commit in world.store.commits]
    assert [kind for kind in kinds if records.INTERRUPT in kind] == [{records.INTERRUPT, records.MESSAGE}]


async def test_a_stream_interrupts_too(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "a", "...")
    kinds = REF.options(on_busy="interrupt").channel("output").subscribe()  # a control handler: that does nothing
    assert (await soon(anext(kinds))).data == "a"
    assert not call.done()
    world.go.set()
    await soon(call)


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_it_holds_where_the_turn_runs_again(start: Start, store: ScriptedStore, policy: Any) -> None:
    world = World(start, store)
    await soon(REF.write.send("a", "hangs", "stubborn", "..."))
    await soon(world.reached.wait())
    world.reached.clear()
    await soon(REF.options(on_busy=policy).send("urgent"))
    await soon(world.reached.wait())  # it has heard, and hangs in its cleanup ...
    world.crash()
    await soon(world.reached.wait())  # ... and hears and hangs again where it runs again
    assert world.did == []
    world.go.set()
    await until(lambda: world.did == ["urgent"], "what comes after it")
    if policy == "interrupt":
        assert await soon(REF.words()) == ["changed", "urgent"]
        assert await soon(shown(4)) == ["a", "hangs", "stubborn", "as far as it came"]
    else:
        assert await soon(REF.words()) == ["urgent"]
        assert await soon(shown(4)) == []
    assert await rest(store) == set()


# -- rollback -------------------------------------------------------------------------------------------------------


async def test_rollback_leaves_nothing_and_readers_are_told(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    await soon(REF.channel("output").publish("before"))
    call = await world.begin(REF, "a", "b", "...")
    await soon(REF.channel("output").publish("from outside"))
    assert await soon(REF.options(on_busy="rollback").ask("instead")) == "INSTEAD"
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert await soon(REF.words()) == ["instead"]
    assert await soon(shown(6)) == ["before", "from outside"]  # before, a, b, from outside; reset, from outside
    told = (await soon(turns(2)))[1]
    assert (told["event"], told["rolled_back"]) == ("interrupted", True)
    assert await rest(store) == set()


async def test_a_handler_cannot_save_itself_from_a_rollback(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "a", "stubborn", "...")
    await soon(REF.options(on_busy="rollback").send("instead"))
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert await soon(REF.words()) == ["instead"]
    assert await soon(shown(3)) == []


async def test_a_rollback_after_an_interrupt_still_rolls_back(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "a", "stubborn", "...")
    await asyncio.gather(REF.options(on_busy="interrupt").send("one"), REF.options(on_busy="rollback").send("two"))
    with pytest.raises(TurnInterrupted):
        await soon(call)
    assert await soon(REF.words()) == ["one", "two"]


async def test_the_rollback_is_one_commit(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "a", "...")
    await soon(REF.options(on_busy="rollback").ask("instead"))
    with pytest.raises(TurnInterrupted):
        await soon(call)
    ends = [commit for commit in world.store.commits if any(key[:1] == records.INTERRUPT for key in commit.drop)]
    (end,) = ends
    put = [records.channel_items.decode(value).kind for key, value in end.put.items() if key[:1] == records.ITEM]
    assert sorted(put) == ["item", "reset"]  # of $turns, and of the channel
    assert {key[:1] for key in end.drop} >= {records.JOURNAL, records.RUN, records.INTERRUPT}


async def test_a_turn_that_has_ended_is_not_rolled_back(start: Start, store: ScriptedStore) -> None:
    """Not even if that comes in the moment between its end and its commit."""
    world = World(start, store)
    await soon(REF.words())
    first = asyncio.ensure_future(REF.ask("first"))
    second = asyncio.ensure_future(REF.options(on_busy="rollback").fail())
    assert await soon(first) == "FIRST"
    with pytest.raises(ActorFailed):
        await soon(second)
    assert await soon(REF.words()) == ["first"]
    world.crash()
    assert await soon(REF.words()) == ["first"]


async def test_an_actor_that_has_nothing_to_go_back_to_refuses_it(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    loose = actor_ref("loose-1")
    call = await world.begin(loose, name="listen")
    with pytest.raises(Rejected, match="persist"):
        await soon(loose.options(on_busy="rollback").ask("x"))
    world.go.set()
    assert await soon(call) == []


async def rest(store: ScriptedStore, address: str = "poet-1") -> set[bytes]:
    """The kinds of rows that are left beside answers and channels."""
    await settle()
    found = await store.read(address, b"\x00", b"\x80", limit=100)
    answers = [
        key for key, row in found if key[:1] == records.MESSAGE
        and isinstance(records.message_rows.decode(row), records.Done)
    ]  # fmt: skip
    return {key[:1] for key, _ in found if key not in answers} - {records.CHANNEL}


async def test_a_stream_that_starts_anew_discards_its_own_entries_only(start: Start, store: ScriptedStore) -> None:
    """What others have published meanwhile is told again behind the reset."""
    world = World(start, store)
    await soon(REF.write.send("a", "b", "..."))
    await soon(world.reached.wait())
    await soon(REF.channel("output").publish("one"))
    await soon(REF.channel("output").publish("two"))
    assert await soon(shown(4)) == ["a", "b", "one", "two"]
    world.crash()
    await soon(world.reached.wait())
    assert await soon(shown(9)) == ["one", "two", "a", "b"]  # reset, one, two, a, b
    world.crash()
    await soon(world.reached.wait())
    assert await soon(shown(12)) == ["one", "two", "a", "b"]  # reset, a, b
    world.go.set()
    await until(lambda: store.data.records["poet-1"].wake is None, "its end")
    assert await rest(store) == set()


# -- steer ----------------------------------------------------------------------------------------------------------


async def test_a_running_turn_reads_what_is_handed_to_it(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    steer = REF.options(on_busy="steer")
    call = await world.begin(REF, "start", "wait", "end", name="listen")
    receipt = await soon(steer.send("one"))
    asked = asyncio.ensure_future(steer.ask("two"))
    pair = asyncio.ensure_future(steer.pair("three", two="four"))
    await settle()
    world.go.set()
    assert await soon(call) == [[], [], ["one", "two", (("three", "four"), {})]]
    steered = await soon(asked)
    assert isinstance(steered, Steered)
    assert await soon(pair) == steered
    assert world.did == [("start", []), ("wait", []), ("end", ["one", "two", (("three", "four"), {})])]
    assert await soon(REF.words()) == []  # nothing of them ran
    told = [event for event in await soon(turns(5)) if event["event"] == "steered"]
    assert [event["into"] for event in told] == [steered.message_id] * 3
    assert told[0]["message_id"] == receipt.message_id
    assert await rest(store) == set()


async def turns(count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async for event in REF.channel("$turns").subscribe():
        if not event.data["event"].startswith("step"):
            found.append(event.data)
        if len(found) == count:
            break
    return found


async def test_what_it_does_not_read_runs_in_order(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    steer = REF.options(on_busy="steer")
    call = await world.begin(REF, "...")
    asked = [asyncio.ensure_future(steer.ask(word)) for word in ("one", "two")]
    asked.insert(1, asyncio.ensure_future(REF.ask("between")))
    await settle()
    world.go.set()
    await soon(call)
    assert await soon(asyncio.gather(*asked)) == ["ONE", "TWO", "BETWEEN"] or world.did == ["one", "two", "between"]


async def test_with_no_turn_running_it_is_an_ordinary_message(start: Start, store: ScriptedStore) -> None:
    World(start, store)
    assert await soon(REF.options(on_busy="steer").ask("x")) == "X"


@pytest.mark.parametrize("ends", ["fail", "interrupt"])
async def test_what_was_read_by_a_turn_that_comes_to_nothing_runs(
    start: Start, store: ScriptedStore, ends: str
) -> None:
    world = World(start, store)
    steer = REF.options(on_busy="steer")
    call = await world.begin(REF, "start", "wait", ends, name="listen")
    asked = asyncio.ensure_future(steer.ask("one"))
    await settle()
    if ends == "fail":
        world.go.set()
        await until(lambda: ("fail", ["one"]) in world.did, "it is read")
    else:
        await soon(REF.interrupt())
    assert await soon(asked) == "ONE"
    with pytest.raises((ActorFailed, TurnInterrupted)):
        await soon(call)
    assert await rest(store) == set()


async def test_a_turn_that_runs_again_reads_a_message_where_it_read_it_first(
    start: Start, store: ScriptedStore
) -> None:
    world = World(start, store)
    steer = REF.options(on_busy="steer")
    receipt = await soon(REF.listen.send("one", "two", "wait", "three"))
    await soon(world.reached.wait())
    asked = asyncio.ensure_future(steer.ask("now"))  # comes back to the new owner by itself
    await soon(steer.send("later"))
    world.crash()
    world.go.set()
    await until(lambda: len(world.did) == 1, "the last step")
    assert world.did == [("three", ["now", "later"])]
    assert receipt.message_id in {event["message_id"] for event in await soon(turns(4))}
    asked.cancel()


async def test_requests_that_come_together_leave_no_wake_up_time(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "...")
    asked = [asyncio.ensure_future(REF.options(on_busy="steer").ask(word)) for word in ("one", "two")]
    await settle()
    world.go.set()
    await soon(asyncio.gather(call, *asked))
    await settle()
    assert store.data.records["poet-1"].wake is None


async def test_what_a_turn_was_about_to_read_when_it_was_stopped_runs(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, "wait", "end", name="listen_through")
    asked = asyncio.ensure_future(REF.options(on_busy="steer").ask("one"))
    await settle()
    world.store.hold()
    world.go.set()
    await soon(world.store.waiting.wait())  # that it reads it is about to be durable
    stopping = asyncio.ensure_future(REF.interrupt())
    await settle()
    world.store.let_go()
    await soon(stopping)
    assert await soon(call) == []
    assert await soon(asked) == "ONE"
    assert await rest(store) == set()


async def test_what_a_turn_has_read_that_deletes_its_actor_does_not_run(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    call = await world.begin(REF, name="listen_and_delete")
    asked = asyncio.ensure_future(REF.options(on_busy="steer").ask("one"))
    await settle()
    world.go.set()
    assert await soon(call) == ["one"]
    assert isinstance(await soon(asked), Steered)
    await settle()
    assert await soon(REF.words()) == []
    assert world.did == []


async def test_what_was_read_before_the_crash_is_read_at_the_same_place(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    steer = REF.options(on_busy="steer")
    await soon(REF.redirected.send("a", "b", "c", "d"))
    await soon(world.reached.wait())  # at b
    await soon(steer.send("first"))
    world.reached.clear()
    world.go.set()
    world.go = asyncio.Event()
    await soon(world.reached.wait())  # at d: the first was read behind b
    await soon(steer.send("second"))
    world.pauses = False
    world.crash()
    await until(lambda: world.did, "it comes to its end")
    assert world.did == [[("b", "first"), ("e", "second")]]
    assert await soon(shown(5)) == ["a", "b", "c", "d", "e"]


async def test_a_message_that_is_itself_stopped_is_not_read(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    steer = REF.options(on_busy="steer")
    call = await world.begin(REF, "wait", "end", name="listen")
    receipt = await soon(steer.send("one"))
    await soon(REF.interrupt(message_id=receipt.message_id))
    world.go.set()
    assert await soon(call) == [[], []]
    assert await soon(REF.words()) == []


async def test_actors_that_keep_nothing_can_be_steered(start: Start, store: ScriptedStore) -> None:
    world = World(start, store)
    loose = actor_ref("loose-1")
    call = await world.begin(loose, name="listen")
    asked = asyncio.ensure_future(loose.options(on_busy="steer").ask("one"))
    await settle()
    world.go.set()
    assert await soon(call) == ["one"]
    assert isinstance(await soon(asked), Steered)
    assert world.did == []


async def test_steering_needs_a_turn(start: Start, store: ScriptedStore) -> None:
    World(start, store)

    class Outside(Actor):
        @handler(control=True)
        async def look(self) -> list[Any]:
            return [message async for message in self.steering()]

    start(Outside)
    with pytest.raises(Exception, match="only inside a running turn"):
        await soon(actor_ref("outside-1").look())


# -- what is asked for -----------------------------------------------------------------------------------------------


def test_policies_have_names() -> None:
    with pytest.raises(ValueError, match="on_busy must be one of queue, reject, interrupt, rollback, steer"):
        REF.options(on_busy="wait")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class Odd: on_busy"):

        class Odd(Actor, on_busy="wait"):  # type: ignore[arg-type]
            pass

    with pytest.raises(ValueError, match="needs persist"):

        class Odder(Actor, on_busy="rollback", persist="never"):
            pass


async def test_the_class_says_what_its_messages_do(start: Start, store: ScriptedStore) -> None:
    class Picky(Poet, on_busy="reject"):
        pass

    world = World(start, store)
    start(Picky, store=ScriptedStore())
    picky = actor_ref("picky-1")
    call = await world.begin(picky, "...")
    with pytest.raises(Busy):
        await soon(picky.ask("x"))
    waits = asyncio.ensure_future(picky.options(on_busy="queue").ask("y"))
    await settle()
    world.go.set()
    await soon(call)
    assert await soon(waits) == "Y"
