"""The life of an activation, its commits, and calls that come back to it."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors import (
    Actor,
    ActorError,
    ActorFailed,
    CallCycle,
    ClusterUnavailable,
    ConnectionLost,
    MailboxFull,
    actor_ref,
    handler,
)
from actors.ports import Fenced, StoreUnavailable
from actors.settings import Settings
from tests.unit.conftest import Start
from tests.unit.fakes import LeasedDirectory, LoopTime, ScriptedStore, settle, soon, until


@dataclass
class Count:
    n: int = 0
    seen: list[Any] = field(default_factory=list)


# -- on_activate and on_deactivate ----------------------------------------------------------------------------------


async def test_every_waiting_caller_gets_the_failure_of_on_activate_and_the_next_message_tries_again(
    start: Start,
) -> None:
    gate = asyncio.Event()
    attempts: list[int] = []

    class Moody(Actor):
        async def on_activate(self) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                await gate.wait()
                raise OSError("no coffee")

        async def receive(self, message: object) -> object:
            return message

        @handler
        async def items(self) -> Any:
            yield 1

        @handler(readonly=True)
        async def peek(self) -> int:
            return 1

        @handler(control=True)
        async def control(self) -> int:
            return 1

    start(Moody)
    ref = actor_ref("moody-1")
    calls = [ref.ask(1), ref.ask(2), anext(ref.items.stream()), ref.peek(), ref.control()]
    tasks = [asyncio.ensure_future(call) for call in calls]
    await settle()
    gate.set()
    for failed in await soon(asyncio.gather(*tasks, return_exceptions=True)):
        assert isinstance(failed, ActorFailed)
        assert "on_activate" in str(failed)
        assert "moody-1" in str(failed)
        assert failed.type_name == "OSError"
        assert type(failed.__cause__) is OSError
    assert await soon(ref.ask(3)) == 3
    assert len(attempts) == 2


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), asyncio.CancelledError(), KeyError()])
async def test_nothing_that_on_activate_raises_harms_the_runtime(start: Start, error: BaseException) -> None:
    class Moody(Actor):
        async def on_activate(self) -> None:
            if self.key == "bad":
                raise error

        async def receive(self, message: object) -> object:
            return message

    start(Moody)
    for _ in range(3):
        with pytest.raises(ActorFailed, match=type(error).__name__):
            await soon(actor_ref("moody-bad").ask(1))
    assert await soon(actor_ref("moody-good").ask(1)) == 1


async def test_a_constructor_that_raises_fails_the_activation(start: Start) -> None:
    class Broken(Actor):
        def __init__(self) -> None:
            raise RuntimeError("cannot be built")

        async def receive(self, message: object) -> None: ...

    start(Broken)
    for _ in range(2):
        with pytest.raises(ActorFailed, match="cannot be built"):
            await soon(actor_ref("broken-1").ask())


async def test_a_one_way_message_to_an_actor_that_cannot_be_activated_is_refused_or_logged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(Actor):
        async def on_activate(self) -> None:
            await asyncio.sleep(0)
            raise OSError("no coffee")

        async def receive(self, message: object) -> None: ...

    start(Moody)
    try:
        await soon(actor_ref("moody-1").send("precious"))
    except ActorFailed:
        return
    await settle()
    lost = [record.getMessage() for record in caplog.records if "lost" in record.getMessage()]
    assert lost, "an accepted message vanished, and nothing says so"


async def test_an_on_activate_that_never_returns_is_ended(loop_time: LoopTime, start: Start) -> None:
    never = asyncio.Event()

    class Stuck(Actor):
        async def on_activate(self) -> None:
            await never.wait()

        async def receive(self, message: object) -> None: ...

    start(Stuck, settings=Settings(activation_timeout=10))
    call = asyncio.ensure_future(actor_ref("stuck-1").ask())
    await settle()
    await loop_time.jump(11)
    with pytest.raises(ActorFailed, match="TimeoutError"):
        await soon(call)


async def test_on_activate_sees_the_state_and_what_it_changes_is_kept(start: Start, store: ScriptedStore) -> None:
    class Counting(Actor):
        state: Count

        async def on_activate(self) -> None:
            self.state.n += 1

        async def receive(self, message: object) -> int:
            return self.state.n

    start(Counting, store=store)
    assert await soon(actor_ref("counting-1").ask()) == 1
    start(Counting, store=store)
    assert await soon(actor_ref("counting-1").ask()) == 2


class Tidy(Actor):
    """Puts itself to sleep when told, and notes when it goes."""

    state: Count
    error: BaseException | None = None
    gate: asyncio.Event | None = None
    closing: asyncio.Event | None = None

    async def on_deactivate(self, reason: str) -> None:
        self.state.seen.append(reason)
        if self.closing is not None:
            self.closing.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error

    @handler
    async def add(self, value: Any = None) -> int:
        self.state.n += 1
        self.state.seen.append(value)
        return self.state.n

    @handler
    async def seen(self) -> list[Any]:
        return self.state.seen

    @handler
    async def sleep(self) -> None:
        self.deactivate()

    @handler
    async def forget(self) -> None:
        self.state.seen.clear()
        self.state.n = 0


async def test_deactivate_stores_what_on_deactivate_changed(start: Start, store: ScriptedStore) -> None:
    runtime = start(Tidy, store=store)
    ref = actor_ref("tidy-1")
    await soon(ref.add())
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "the deactivation")
    assert store.state_of("tidy-1") == {"n": 1, "seen": [None, "requested"]}
    assert await soon(ref.add()) == 2


@pytest.mark.parametrize(
    "error", [ValueError("x"), asyncio.CancelledError(), SystemExit(1), TimeoutError(), KeyError()]
)
async def test_an_on_deactivate_that_raises_does_not_keep_the_actor_from_going(
    start: Start, store: ScriptedStore, error: BaseException
) -> None:
    class Rude(Tidy):
        pass

    Rude.error = error
    runtime = start(Rude, store=store)
    ref = actor_ref("rude-1")
    await soon(ref.add())
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "the deactivation")
    assert store.state_of("rude-1")["n"] == 1
    assert await soon(ref.add()) == 2


async def test_an_on_deactivate_that_never_returns_is_ended(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    class Stuck(Tidy):
        gate = asyncio.Event()

    runtime = start(Stuck, store=store, settings=Settings(activation_timeout=10))
    await soon(actor_ref("stuck-1").add())
    await soon(actor_ref("stuck-1").sleep())
    await settle()
    assert runtime.activations
    await loop_time.jump(11)
    await until(lambda: not runtime.activations, "the deactivation")


async def test_messages_that_arrive_during_deactivation_are_not_lost(start: Start) -> None:
    class Slow(Tidy):
        gate = asyncio.Event()
        closing = asyncio.Event()

    start(Slow)
    ref = actor_ref("slow-1")
    await soon(ref.add(0))
    await soon(ref.sleep())
    assert Slow.closing is not None
    assert Slow.gate is not None
    await soon(Slow.closing.wait())
    await soon(ref.add.send("send"))
    ask = asyncio.ensure_future(ref.add("ask"))
    await settle()
    Slow.gate.set()
    await soon(ask)
    seen = await soon(ref.seen())
    assert sorted(seen, key=str) == sorted([0, "requested", "send", "ask"], key=str)


async def test_messages_that_arrive_during_deactivation_keep_their_order(start: Start) -> None:
    class Slow(Tidy):
        gate = asyncio.Event()
        closing = asyncio.Event()

    start(Slow)
    ref = actor_ref("slow-1")
    await soon(ref.add("first"))
    await soon(ref.sleep())
    assert Slow.closing is not None
    assert Slow.gate is not None
    await soon(Slow.closing.wait())
    asks = []
    for n in range(0, 6, 2):
        await soon(ref.add.send(n))
        asks.append(asyncio.ensure_future(ref.add(n + 1)))
        await settle()
    Slow.gate.set()
    await soon(asyncio.gather(*asks))
    assert await soon(ref.seen()) == ["first", "requested", 0, 1, 2, 3, 4, 5]


async def test_what_waits_runs_in_the_next_activation(start: Start) -> None:
    log: list[Any] = []
    gate = asyncio.Event()

    class Restless(Actor):
        async def on_activate(self) -> None:
            log.append("activate")

        async def on_deactivate(self, reason: str) -> None:
            log.append(reason)

        @handler
        async def sleep(self) -> None:
            await gate.wait()
            self.deactivate()
            log.append("turn ends")

        @handler
        async def note(self, value: int) -> int:
            log.append(value)
            return value

    start(Restless)
    ref = actor_ref("restless-1")
    calls = asyncio.gather(ref.sleep(), ref.note(1), ref.note(2))
    await settle()
    gate.set()
    assert list(await soon(calls)) == [None, 1, 2]
    assert log == ["activate", "turn ends", "requested", "activate", 1, 2]


async def test_deactivate_within_on_activate_ends_the_activation_without_losing_its_messages(start: Start) -> None:
    log: list[str] = []

    class Shy(Actor):
        async def on_activate(self) -> None:
            log.append("activate")
            if len(log) == 1:
                self.deactivate()

        async def on_deactivate(self, reason: str) -> None:
            log.append(reason)

        async def receive(self, message: object) -> object:
            return message

    start(Shy)
    assert await soon(actor_ref("shy-1").ask(1)) == 1
    await until(lambda: "requested" in log, "the deactivation")


# -- drain and close ------------------------------------------------------------------------------------------------


async def test_drain_lets_the_running_turn_end_and_stores_everything(start: Start, store: ScriptedStore) -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    class Worker(Actor, persist="deactivation"):
        state: Count

        async def receive(self, message: object) -> int:
            running.set()
            await gate.wait()
            self.state.n += 1
            return self.state.n

    runtime = start(Worker, store=store)
    turn = asyncio.ensure_future(actor_ref("worker-1").ask())
    await soon(running.wait())
    drain = asyncio.ensure_future(runtime.drain(limit=60))
    await settle()
    assert not drain.done()
    gate.set()
    assert await soon(turn) == 1
    assert await soon(drain) == 0
    assert store.state_of("worker-1")["n"] == 1


async def test_drain_does_not_wait_for_the_queue_behind_the_running_turn(start: Start) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    started: list[int] = []
    directory = LeasedDirectory(["worker"])

    class Worker(Actor):
        async def receive(self, message: int) -> int:
            started.append(message)
            await gates[message].wait()
            return message

    runtime = start(Worker, directory=directory)
    calls = [asyncio.ensure_future(actor_ref("worker-1").ask(n)) for n in range(3)]
    await until(lambda: started == [0], "the first turn")
    directory.open = False
    drain = asyncio.ensure_future(runtime.drain(limit=60))
    await settle()
    gates[0].set()
    assert await soon(calls[0]) == 0
    assert await soon(drain) == 0
    assert started == [0]
    await runtime.close()
    for failed in await soon(asyncio.gather(*calls[1:], return_exceptions=True)):
        assert isinstance(failed, ClusterUnavailable)


async def test_drain_ends_although_readonly_calls_keep_coming(start: Start) -> None:
    class Busy(Actor):
        @handler(readonly=True)
        async def peek(self) -> None:
            await asyncio.sleep(0)

    runtime = start(Busy)
    runtime_closed = False

    async def ask_for_ever() -> None:
        while not runtime_closed:
            with contextlib.suppress(ActorError):
                await actor_ref("busy-1").options(timeout=1).peek()

    await soon(actor_ref("busy-1").peek())
    askers = [asyncio.ensure_future(ask_for_ever()) for _ in range(3)]
    await settle()
    drained = asyncio.ensure_future(runtime.drain(limit=60))
    try:
        assert await soon(drained) == 0
    finally:
        runtime_closed = True
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)


async def test_a_turn_that_does_not_end_is_dropped_when_the_drain_is_over(
    loop_time: LoopTime, start: Start, store: ScriptedStore
) -> None:
    never = asyncio.Event()

    class Stuck(Actor):
        state: Count

        async def receive(self, message: object) -> None:
            self.state.n = 99
            await never.wait()

    runtime = start(Stuck, store=store)
    turn = asyncio.ensure_future(actor_ref("stuck-1").ask())
    await settle()
    drain = asyncio.ensure_future(runtime.drain(limit=10))
    await settle()
    await loop_time.jump(11)
    assert await soon(drain) == 1
    await settle()
    assert not turn.done(), "another silo may take it on"
    await runtime.close()
    with pytest.raises(ConnectionLost, match="stuck-1"):
        await soon(turn)
    assert store.state_of("stuck-1") is None
    [kept] = store.commits
    assert kept.state is None, "only the message itself, so that another silo can run it"


async def test_after_close_every_use_is_cluster_unavailable(start: Start) -> None:
    runtime = start(Tidy)
    ref = actor_ref("tidy-1")
    await soon(ref.add())
    await runtime.close()
    for call in (ref.add(), ref.add.send(), ref.ask(), anext(ref.missing.stream())):
        with pytest.raises(ClusterUnavailable, match="closed"):
            await soon(call)


async def test_close_ends_every_open_call(start: Start) -> None:
    never = asyncio.Event()

    class Stuck(Actor):
        async def on_activate(self) -> None:
            if self.key == "activating":
                await never.wait()

        @handler
        async def wait(self) -> None:
            await never.wait()

        @handler
        async def items(self) -> Any:
            yield 1
            await never.wait()

    runtime = start(Stuck)
    calls = [actor_ref("stuck-1").wait(), actor_ref("stuck-1").wait(), actor_ref("stuck-activating").wait()]
    tasks = [asyncio.ensure_future(call) for call in calls]
    stream = actor_ref("stuck-2").items.stream()
    assert await soon(anext(stream)) == 1
    tasks.append(asyncio.ensure_future(anext(stream)))
    await settle()
    await soon(runtime.close())
    for failed in await soon(asyncio.gather(*tasks, return_exceptions=True)):
        assert isinstance(failed, ClusterUnavailable | ConnectionLost), failed


# -- commits --------------------------------------------------------------------------------------------------------


def counter(**options: Any) -> type[Actor]:
    class Counter(Actor, **options):
        state: Count

        @handler
        async def add(self) -> int:
            self.state.n += 1
            return self.state.n

        @handler
        async def add_later(self) -> int:
            await asyncio.sleep(0)
            self.state.n += 1
            return self.state.n

        @handler
        async def look(self) -> int:
            return self.state.n

        @handler
        async def fail(self) -> None:
            self.state.n += 10
            raise ValueError

        @handler
        async def fail_later(self) -> None:
            self.state.n += 10
            await asyncio.sleep(0)
            raise ValueError

        @handler
        async def replace(self, n: int) -> None:
            self.state = Count(n)

        @handler
        async def pour(self, fail: bool) -> Any:
            self.state.n += 1
            yield self.state.n
            if fail:
                raise ValueError

        @handler
        async def sleep(self) -> None:
            self.deactivate()

        @handler(control=True)
        async def bump(self) -> int:
            self.state.n += 100
            return self.state.n

    return Counter


async def test_persist_turn_commits_once_per_turn_that_changed_something(start: Start, store: ScriptedStore) -> None:
    runtime = start(counter(), store=store)
    ref = actor_ref("counter-1")
    assert await soon(ref.look()) == 0
    assert store.attempts == 0
    for n in range(1, 4):
        assert await soon(ref.add()) == n
        assert len(store.commits) == n
        assert store.state_of("counter-1")["n"] == n
        await soon(ref.look())
    await soon(ref.add_later())
    await soon(ref.replace(4))  # the same value in another object
    await soon(runtime.drain(limit=3))
    assert len(store.commits) == 4


async def test_persist_deactivation_commits_when_the_actor_goes(start: Start, store: ScriptedStore) -> None:
    runtime = start(counter(persist="deactivation"), store=store)
    ref = actor_ref("counter-1")
    assert [await soon(ref.add()), await soon(ref.add())] == [1, 2]
    assert store.attempts == 0
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "the deactivation")
    assert store.state_of("counter-1")["n"] == 2
    assert await soon(ref.look()) == 2
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "the second deactivation")
    assert len(store.commits) == 1, "nothing had changed"


async def test_persist_never_does_not_touch_the_store(start: Start, store: ScriptedStore) -> None:
    runtime = start(counter(persist="never"), store=store)
    ref = actor_ref("counter-1")
    assert [await soon(ref.add()), await soon(ref.add())] == [1, 2]
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "the deactivation")
    assert await soon(ref.look()) == 0
    assert (store.attempts, store.opened) == (0, [])


@pytest.mark.parametrize("name", ["add", "add_later"])
async def test_the_reply_leaves_only_after_the_commit(start: Start, store: ScriptedStore, name: str) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    store.hold()
    call = asyncio.ensure_future(getattr(ref, name)())
    following = asyncio.ensure_future(ref.look())
    await soon(store.waiting.wait())
    await settle()
    assert not call.done()
    assert not following.done(), "the next turn waits for the commit too"
    assert store.bytes_of("counter-1") is None
    store.let_go()
    assert await soon(call) == 1
    assert await soon(following) == 1


async def test_the_end_of_a_stream_leaves_only_after_the_commit(start: Start, store: ScriptedStore) -> None:
    start(counter(), store=store)
    store.hold()
    stream = actor_ref("counter-1").pour.stream(False)
    assert await soon(anext(stream)) == 1
    end = asyncio.ensure_future(anext(stream))
    await soon(store.waiting.wait())
    await settle()
    assert not end.done()
    store.let_go()
    with pytest.raises(StopAsyncIteration):
        await soon(end)


@pytest.mark.parametrize("name", ["fail", "fail_later"])
async def test_a_handler_that_raises_rolls_its_state_back(start: Start, store: ScriptedStore, name: str) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    await soon(ref.add())
    with pytest.raises(ActorFailed):
        await soon(getattr(ref, name)())
    assert len(store.commits) == 1
    assert await soon(ref.look()) == 1
    assert await soon(ref.add()) == 2


async def test_a_generator_that_raises_rolls_its_state_back(start: Start, store: ScriptedStore) -> None:
    start(counter(), store=store)
    items = []
    with pytest.raises(ActorFailed):
        async for item in actor_ref("counter-1").pour.stream(True):
            items.append(item)  # noqa: PERF401
    assert items == [1]
    assert await soon(actor_ref("counter-1").look()) == 0
    assert store.commits == []


@pytest.mark.parametrize("name", ["add", "add_later"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreUnavailable("disk full"), ClusterUnavailable),
        (RuntimeError("a bug in the store"), ActorError),
    ],
)
async def test_a_failed_commit_is_an_error_and_the_next_message_reloads(
    start: Start, store: ScriptedStore, error: Exception, expected: type[Exception], name: str
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    assert await soon(ref.add()) == 1
    store.refusals.append(error)
    opened = len(store.opened)
    with pytest.raises(expected, match="counter-1"):
        await soon(getattr(ref, name)())
    assert await soon(ref.look()) == 1
    assert len(store.opened) == opened + 1
    assert await soon(ref.add()) == 2


@pytest.mark.parametrize("name", ["add", "add_later"])
async def test_a_fenced_turn_runs_again_where_the_actor_lives_now(
    start: Start, store: ScriptedStore, name: str
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    assert await soon(ref.add()) == 1
    store.refusals.append(Fenced("counter-1", epoch=1, stored=9))
    assert await soon(getattr(ref, name)()) == 2
    assert len(store.opened) == 2
    assert await soon(ref.look()) == 2


async def test_what_waits_behind_a_failed_commit_runs_in_the_next_activation_on_the_stored_state(
    start: Start, store: ScriptedStore
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    await soon(ref.add())
    store.hold()
    store.refusals.append(StoreUnavailable("disk full"))
    failing = asyncio.ensure_future(ref.add())
    await soon(store.waiting.wait())
    waiting = asyncio.gather(ref.add(), ref.look(), ref.add())
    await settle()
    store.let_go()
    with pytest.raises(ClusterUnavailable):
        await soon(failing)
    assert list(await soon(waiting)) == [2, 2, 3]


async def test_a_failed_commit_at_deactivation_does_not_block_the_actor(start: Start, store: ScriptedStore) -> None:
    runtime = start(counter(persist="deactivation"), store=store)
    ref = actor_ref("counter-1")
    await soon(ref.add())
    store.refusals.append(StoreUnavailable("disk full"))
    await soon(ref.sleep())
    await until(lambda: not runtime.activations, "the deactivation")
    assert await soon(ref.add()) == 1


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), Fenced("counter-1", epoch=1, stored=10**9), OSError("odd")]
)
async def test_a_state_that_cannot_be_loaded_now_is_an_error_and_is_tried_again(
    start: Start, store: ScriptedStore, error: Exception
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    store.open_failures.append(error)
    with pytest.raises(ActorError, match="counter-1"):
        await soon(ref.add())
    assert await soon(ref.add()) == 1


async def test_nothing_that_ran_beside_a_failed_commit_commits_what_it_left(start: Start, store: ScriptedStore) -> None:
    entered = asyncio.Event()
    never = asyncio.Event()

    class Stubborn(Actor):
        state: Count

        @handler
        async def add(self) -> int:
            self.state.n += 1
            return self.state.n

        @handler(readonly=True)
        async def watch(self) -> str:
            entered.set()
            with contextlib.suppress(asyncio.CancelledError):
                await never.wait()
            return "would not be cancelled"

        @handler
        async def look(self) -> int:
            return self.state.n

    start(Stubborn, store=store)
    ref = actor_ref("stubborn-1")
    watching = asyncio.ensure_future(ref.watch())
    await soon(entered.wait())
    store.refusals.append(StoreUnavailable("disk full"))
    with pytest.raises(ClusterUnavailable):
        await soon(ref.add())
    await soon(asyncio.gather(watching, return_exceptions=True))
    await settle()
    assert store.commits == []
    assert await soon(ref.look()) == 0


async def test_what_a_control_call_changed_is_durable_when_its_answer_and_the_turns_have_come(
    start: Start, store: ScriptedStore
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    store.hold()
    turn = asyncio.ensure_future(ref.add())
    await soon(store.waiting.wait())  # the turn's state is encoded and on its way
    bump = asyncio.ensure_future(ref.bump())
    await settle()
    store.let_go()
    await soon(asyncio.gather(turn, bump))
    await settle()
    assert store.state_of("counter-1")["n"] == 101


async def test_a_failing_turn_does_not_undo_what_a_control_call_has_committed(
    start: Start, store: ScriptedStore
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    await soon(ref.look())
    store.hold()
    bump = asyncio.ensure_future(ref.bump())
    await soon(store.waiting.wait())
    failing = asyncio.ensure_future(ref.fail())
    await settle()
    store.let_go()
    assert await soon(bump) == 100
    with pytest.raises(ActorFailed):
        await soon(failing)
    assert await soon(ref.look()) == 100
    assert await soon(ref.add()) == 101
    assert store.state_of("counter-1")["n"] == 101


async def test_an_answer_beside_a_turn_does_not_tell_of_what_is_then_rolled_back(
    start: Start, store: ScriptedStore
) -> None:
    start(counter(), store=store)
    ref = actor_ref("counter-1")
    await soon(ref.add())
    store.hold()
    store.refusals.append(StoreUnavailable("disk full"))
    failing = asyncio.ensure_future(ref.add())
    await soon(store.waiting.wait())
    bump = asyncio.ensure_future(ref.bump())  # its answer depends on the commit under way
    await settle()
    store.let_go()
    with pytest.raises(ClusterUnavailable):
        await soon(failing)
    try:
        seen = await soon(bump)
    except ActorError:
        return
    assert seen == 101, "the answer told of a state that was never committed"


# -- calls that come back -------------------------------------------------------------------------------------------


class Node(Actor):
    """Calls on along a path of addresses."""

    @handler
    async def walk(self, *path: str) -> Any:
        return ["end"] if not path else [self.address, *(await actor_ref(path[0]).walk(*path[1:]))]

    @handler
    async def walk_stream(self, *path: str) -> Any:
        yield self.address
        if path:
            async for item in actor_ref(path[0]).walk_stream.stream(*path[1:]):
                yield item

    @handler(readonly=True)
    async def peek(self) -> str:
        return "peek"

    @handler(readonly=True)
    async def peek_and_walk(self, *path: str) -> Any:
        return await actor_ref(path[0]).walk(*path[1:])

    @handler(control=True)
    async def control(self) -> str:
        return "control"

    @handler
    async def ask_back(self, via: str, name: str) -> Any:
        return await actor_ref(via).relay(self.address, name)

    @handler
    async def relay(self, to: str, name: str) -> Any:
        return await getattr(actor_ref(to), name)()

    @handler
    async def send_back(self, to: str) -> None:
        await actor_ref(to).walk.send()


@pytest.mark.parametrize("path", [["1"], ["2", "1"], ["2", "3", "1"], ["2", "3", "2"], ["2", "2"], ["2", "1", "3"]])
async def test_a_call_that_comes_back_gets_an_error_that_names_the_cycle(start: Start, path: list[str]) -> None:
    start(Node)
    addresses = [f"node-{key}" for key in path]
    with pytest.raises(ActorFailed, match="CallCycle") as caught:
        await soon(actor_ref("node-1").walk(*addresses))
    whole = ["node-1", *addresses]
    again = next(i for i, address in enumerate(whole) if address in whole[:i])
    cycle = whole[whole.index(whole[again]) : again + 1]
    assert f"call cycle {' -> '.join(cycle)}:" in str(caught.value)
    if len(path) == 1:
        assert isinstance(caught.value.__cause__, CallCycle)
    for address in set(whole):
        assert await soon(actor_ref(address).walk()) == ["end"], "everyone is free again"


async def test_a_cycle_through_streams_gets_an_error(start: Start) -> None:
    start(Node)
    items = []
    with pytest.raises(ActorFailed, match="node-1 -> node-2 -> node-1"):
        async for item in actor_ref("node-1").walk_stream.stream("node-2", "node-1"):
            items.append(item)  # noqa: PERF401
    assert items == ["node-1", "node-2"]


async def test_a_cycle_through_a_readonly_call_gets_an_error(start: Start) -> None:
    class Careful(Node):
        @handler
        async def go(self) -> Any:
            return await actor_ref("node-2").peek_and_walk(self.address)

    start(Careful, Node)
    with pytest.raises(ActorFailed, match="careful-1 -> careful-1"):
        await soon(actor_ref("careful-1").go())


async def test_a_handler_can_catch_the_cycle(start: Start) -> None:
    class Careful(Actor):
        async def receive(self, message: object) -> str:
            try:
                await self.own_ref.ask()
            except CallCycle:
                return "caught"
            return "not raised"

    start(Careful)
    assert await soon(actor_ref("careful-1").ask()) == "caught"


async def test_on_activate_that_calls_itself_gets_an_error(start: Start) -> None:
    class Eager(Actor):
        async def on_activate(self) -> None:
            if self.key == "direct":
                await self.own_ref.ask()
            elif self.key == "indirect":
                await actor_ref("node-1").relay(self.address, "look")

        async def receive(self, message: object) -> None: ...

        @handler(readonly=True)
        async def look(self) -> None: ...

    start(Eager, Node)
    with pytest.raises((ActorFailed, CallCycle), match="eager-direct -> eager-direct"):
        await soon(actor_ref("eager-direct").ask())
    with pytest.raises((ActorFailed, CallCycle), match="eager-indirect -> node-1 -> eager-indirect"):
        await soon(actor_ref("eager-indirect").ask())


async def test_on_deactivate_that_calls_itself_does_not_hang(start: Start) -> None:
    caught: list[BaseException] = []

    class Clingy(Actor):
        async def on_deactivate(self, reason: str) -> None:
            try:
                await self.own_ref.ask()
            except ActorError as error:
                caught.append(error)

        async def receive(self, message: object) -> None:
            self.deactivate()

    runtime = start(Clingy)
    await soon(actor_ref("clingy-1").ask())
    await until(lambda: not runtime.activations, "the deactivation")
    assert [type(error) for error in caught] == [CallCycle]


async def test_sending_back_is_no_cycle(start: Start) -> None:
    start(Node)

    class Sender(Node):
        @handler
        async def go(self) -> str:
            await actor_ref("node-2").send_back(self.address)
            return "done"

    start(Node, Sender)
    assert await soon(actor_ref("sender-1").go()) == "done"


@pytest.mark.parametrize("name", ["peek", "control"])
async def test_readonly_and_control_calls_may_come_back(start: Start, name: str) -> None:
    start(Node)
    assert await soon(actor_ref("node-1").ask_back("node-2", name)) == name
    assert await soon(actor_ref("node-1").relay("node-1", name)) == name


async def test_two_calls_that_cross_are_no_cycle_of_each(start: Start) -> None:
    """A turn that only waits in the queue of a busy actor gets its turn."""
    gate = asyncio.Event()

    class Slow(Actor):
        async def receive(self, message: object) -> object:
            await gate.wait()
            return message

        @handler
        async def through(self, other: str) -> Any:
            return await actor_ref(other).ask("x")

    start(Slow)
    first = asyncio.ensure_future(actor_ref("slow-1").ask(1))
    second = asyncio.ensure_future(actor_ref("slow-2").through("slow-1"))
    await settle()
    gate.set()
    assert list(await soon(asyncio.gather(first, second))) == [1, "x"]


async def test_the_chain_of_a_turn_that_is_over_is_no_cycle(start: Start) -> None:
    results: list[Any] = []
    gate = asyncio.Event()

    class Leaves(Actor):
        async def receive(self, message: object) -> None:
            async def afterwards() -> None:
                await gate.wait()
                results.append(await self.own_ref.look())

            self.task = asyncio.ensure_future(afterwards())
            await asyncio.sleep(0)

        @handler
        async def look(self) -> str:
            return "looked"

    start(Leaves)
    await soon(actor_ref("leaves-1").ask())
    gate.set()
    await until(lambda: results, "the call of the task that outlived its turn")
    assert results == ["looked"]


# -- the mailbox from outside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ask", "send"])
async def test_a_full_mailbox_refuses_and_recovers(start: Start, way: str) -> None:
    gate, running = asyncio.Event(), asyncio.Event()
    done: list[object] = []

    class Slow(Actor, max_queue=3):
        async def receive(self, message: object) -> object:
            running.set()
            await gate.wait()
            done.append(message)
            return message

    start(Slow)
    ref = actor_ref("slow-1")
    first = asyncio.ensure_future(ref.ask("running"))
    await soon(running.wait())
    waiting = [asyncio.ensure_future(ref.ask(n) if way == "ask" else ref.send(n)) for n in range(3)]
    await settle()
    for call in (ref.ask("more"), ref.send("more")):
        with pytest.raises(MailboxFull, match="slow-1: 3 messages"):
            await soon(call)
    gate.set()
    await soon(asyncio.gather(first, *waiting))
    assert await soon(ref.ask("after")) == "after"
    assert done == ["running", 0, 1, 2, "after"]


async def test_the_bytes_that_wait_are_bounded(start: Start) -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    class Slow(Actor):
        async def receive(self, message: bytes) -> int:
            running.set()
            await gate.wait()
            return len(message)

    start(Slow, settings=Settings(max_mailbox_bytes=1000))
    ref = actor_ref("slow-1")
    first = asyncio.ensure_future(ref.ask(b""))
    await soon(running.wait())
    await soon(ref.send(b"x" * 2000))  # one is always let in
    with pytest.raises(MailboxFull, match="bytes"):
        await soon(ref.send(b"x"))
    gate.set()
    await soon(first)
    assert await soon(ref.ask(b"xx")) == 2


async def test_a_full_mailbox_of_one_actor_is_no_matter_of_another(start: Start) -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    class Slow(Actor, max_queue=1):
        async def receive(self, message: object) -> object:
            if self.key == "full":
                running.set()
                await gate.wait()
            return message

    start(Slow)
    first = asyncio.ensure_future(actor_ref("slow-full").ask(1))
    await soon(running.wait())
    await soon(actor_ref("slow-full").send(2))
    with pytest.raises(MailboxFull):
        await soon(actor_ref("slow-full").send(3))
    assert await soon(actor_ref("slow-other").ask(4)) == 4
    gate.set()
    await soon(first)
