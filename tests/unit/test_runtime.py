"""The runtime: order, identity of messages, the lease, and answers over links."""

import asyncio
from typing import Any

import pytest

from actors import Actor, ActorError, ClusterUnavailable, ConnectionLost, actor_ref, codec, handler
from actors.envelope import Accepted, Credit, End, Failure, Item, Leave, Mode, NotHere, Reply, Request
from actors.settings import Settings
from tests.unit.conftest import Start
from tests.unit.fakes import FakeLink, LeasedDirectory, LoopTime, ManualClock, ScriptedStore, settle, soon, until


class Journal(Actor, max_queue=10_000):
    seen: list[Any]

    def __init__(self) -> None:
        self.seen = []

    async def receive(self, message: Any) -> Any:
        self.seen.append(message)
        return message

    @handler
    async def note(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    @handler
    async def note_slowly(self, value: Any) -> Any:
        await asyncio.sleep(0)
        self.seen.append(value)
        return value

    @handler
    async def stream(self, value: Any) -> Any:
        self.seen.append(value)
        yield value

    @handler
    async def all(self) -> list[Any]:
        return self.seen


# -- order ----------------------------------------------------------------------------------------------------------


async def test_what_one_task_awaits_one_after_another_runs_in_that_order(start: Start) -> None:
    start(Journal)
    ref = actor_ref("journal-1")
    for n in range(0, 400, 5):
        await ref.send(n)
        await ref.note(n + 1)
        await ref.note_slowly.send(n + 2)
        assert [item async for item in ref.stream.stream(n + 3)] == [n + 3]
        await ref.note.send(n + 4)
    assert await soon(ref.all()) == list(range(400))


async def test_calls_that_one_task_starts_together_run_in_the_order_of_their_start(start: Start) -> None:
    start(Journal)
    ref = actor_ref("journal-1")
    ways: list[Any] = [ref.send, ref.ask, ref.note, ref.note.send, ref.note_slowly, ref.note_slowly.send]
    await soon(asyncio.gather(*[ways[n % len(ways)](n) for n in range(2000)]))
    assert await soon(ref.all()) == list(range(2000))


async def test_the_order_holds_from_before_the_activation_to_after_it(start: Start) -> None:
    directory = LeasedDirectory(["journal"])
    directory.gate = asyncio.Event()
    start(Journal, directory=directory)
    ref = actor_ref("journal-1")
    calls = [asyncio.ensure_future(ref.note(n) if n % 2 else ref.send(n)) for n in range(100)]
    await settle()
    directory.gate.set()
    for n in range(100, 200):
        calls.append(asyncio.ensure_future(ref.note(n) if n % 2 else ref.send(n)))
        if n % 10 == 0:
            await settle(1)
    await soon(asyncio.gather(*calls))
    assert await soon(ref.all()) == list(range(200))
    assert directory.claims == ["journal-1"], "one claim for all of them"


async def test_an_actor_sends_in_order_too(start: Start) -> None:
    class Sender(Actor, persist="never"):
        async def receive(self, n: int) -> None:
            for i in range(n):
                await (actor_ref("journal-1").note.send(i) if i % 2 else actor_ref("journal-1").note_slowly(i))

    start(Journal, Sender)
    await soon(actor_ref("sender-1").ask(100))
    assert await soon(actor_ref("journal-1").all()) == list(range(100))


async def test_what_a_durable_turn_sends_leaves_in_order_after_its_commit(start: Start) -> None:
    class Sender(Actor):
        async def receive(self, n: int) -> object:
            for i in range(n):
                await actor_ref("journal-1").note.send(i)
            return await actor_ref("journal-1").all()

    start(Journal, Sender)
    assert await soon(actor_ref("sender-1").ask(100)) == []
    while len(found := await soon(actor_ref("journal-1").all())) < 100:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert found == list(range(100))


async def test_callers_of_a_quick_actor_leave_the_loop_to_others(start: Start) -> None:
    start(Journal)
    await soon(actor_ref("journal-1").note(0))
    ticks = 0
    done = False

    async def tick() -> None:
        nonlocal ticks
        while not done:
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.ensure_future(tick())
    for _ in range(1000):
        await actor_ref("journal-1").note(1)
    done = True
    await ticker
    assert ticks >= 10


# -- trouble with the directory -------------------------------------------------------------------------------------


async def test_a_directory_that_fails_for_a_moment_delays_the_call_only(start: Start) -> None:
    directory = LeasedDirectory(["journal"])
    directory.failures = [ClusterUnavailable("etcd is away"), ClusterUnavailable("etcd is away")]
    start(Journal, directory=directory)
    assert await soon(actor_ref("journal-1").note(1)) == 1
    assert len(directory.claims) == 3


async def test_a_directory_that_stays_away_is_cluster_unavailable_with_the_reason(
    loop_time: LoopTime, start: Start
) -> None:
    directory = LeasedDirectory(["journal"])
    directory.failures = [ClusterUnavailable("etcd is away") for _ in range(1000)]
    start(Journal, directory=directory, settings=Settings(delivery_timeout=10))
    call = asyncio.ensure_future(actor_ref("journal-1").note(1))
    for _ in range(30):
        await loop_time.jump(1)
    with pytest.raises(ClusterUnavailable, match=r"journal-1.*etcd is away"):
        await soon(call)


async def test_a_call_that_times_out_before_its_delivery_certainly_did_not_run(
    loop_time: LoopTime, start: Start
) -> None:
    directory = LeasedDirectory(["journal"])
    directory.gate = asyncio.Event()
    start(Journal, directory=directory)
    call = asyncio.ensure_future(actor_ref("journal-1").options(timeout=5).note(1))
    await settle()
    await loop_time.jump(6)
    with pytest.raises(ClusterUnavailable, match="not delivered in time"):
        await soon(call)
    directory.gate.set()
    assert await soon(actor_ref("journal-1").all()) == []


async def test_a_directory_with_a_bug_is_an_error_and_the_address_stays_usable(start: Start) -> None:
    directory = LeasedDirectory(["journal"])
    directory.failures = [RuntimeError("a bug")]
    start(Journal, directory=directory)
    try:
        assert await soon(actor_ref("journal-1").options(timeout=2).note(1)) == 1
    except ActorError as error:
        assert "a bug" in str(error)  # noqa: PT017
    assert await soon(actor_ref("journal-1").note(2)) == 2


# -- the lease ------------------------------------------------------------------------------------------------------


class Leased:
    """A runtime with a lease, and an actor class that works when told."""

    def __init__(self, start: Start) -> None:
        self.clock, self.store, self.directory = ManualClock(), ScriptedStore(), LeasedDirectory(["worker"])
        self.directory.lease_end = 200.0
        self.gate, self.running = asyncio.Event(), asyncio.Event()
        self.ran: list[str] = []
        outer = self

        class Worker(Actor):
            state: dict[str, int]

            async def on_deactivate(self, reason: str) -> None:
                outer.ran.append("on_deactivate")

            @handler
            async def quick(self) -> int:
                outer.ran.append("quick")
                self.state["n"] = self.state.get("n", 0) + 1
                return self.state["n"]

            @handler
            async def look(self) -> dict[str, int]:
                outer.ran.append("look")
                return self.state

            @handler(readonly=True)
            async def peek(self) -> str:
                outer.ran.append("peek")
                return "peek"

            @handler
            async def wait(self) -> str:
                self.state["n"] = 77
                outer.running.set()
                await outer.gate.wait()
                outer.ran.append("wait")
                return "waited"

            @handler
            async def stubborn(self) -> str:
                self.state["n"] = 88
                outer.running.set()
                while not outer.gate.is_set():
                    try:
                        await outer.gate.wait()
                    except asyncio.CancelledError:
                        outer.ran.append("not cancelled")
                return "stubborn"

            @handler
            async def items(self) -> Any:
                yield 1
                outer.running.set()
                await outer.gate.wait()
                yield 2

        self.runtime = start(Worker, clock=self.clock, store=self.store, directory=self.directory)
        self.ref = actor_ref("worker-1")

    def lose_lease(self) -> None:
        self.clock.monotonic = 200.0

    def new_lease(self) -> None:
        self.directory.lease_end = self.clock.monotonic + 100


async def test_a_turn_that_wakes_after_the_deadline_commits_nothing_and_is_no_success(start: Start) -> None:
    lease = Leased(start)
    call = asyncio.ensure_future(lease.ref.options(timeout=1).wait())
    await soon(lease.running.wait())
    lease.lose_lease()
    lease.gate.set()
    with pytest.raises(ConnectionLost, match="worker-1"):
        await soon(call)
    assert lease.store.attempts == 0
    assert not lease.runtime.activations


async def test_a_commit_that_ends_after_the_deadline_is_not_answered_as_success(start: Start) -> None:
    lease = Leased(start)
    lease.store.hold()
    call = asyncio.ensure_future(lease.ref.options(timeout=1).quick())
    await soon(lease.store.waiting.wait())
    lease.lose_lease()
    lease.store.let_go()
    with pytest.raises(ConnectionLost):
        await soon(call)


@pytest.mark.parametrize("name", ["quick", "look", "peek"])
async def test_past_the_deadline_no_handler_runs(start: Start, name: str) -> None:
    lease = Leased(start)
    await soon(lease.ref.quick())
    lease.ran.clear()
    lease.lose_lease()
    call = asyncio.ensure_future(getattr(lease.ref.options(timeout=1), name)())
    await settle()
    assert lease.ran == []
    with pytest.raises((ClusterUnavailable, ConnectionLost)):
        await soon(call)
    assert len(lease.store.commits) == 1


async def test_what_waits_does_not_run_past_the_deadline_but_after_a_new_lease(start: Start) -> None:
    lease = Leased(start)
    running = asyncio.ensure_future(lease.ref.wait())
    await soon(lease.running.wait())
    queued = asyncio.ensure_future(lease.ref.quick())
    await settle()
    lease.lose_lease()
    lease.runtime.stop_acting()
    await settle()
    assert lease.ran == []
    lease.gate.set()
    lease.new_lease()
    assert await soon(running) == "waited"
    assert await soon(queued) == 78
    assert lease.ran == ["wait", "quick"]
    assert lease.store.state_of("worker-1") == {"n": 78}


async def test_a_dropped_turn_that_will_not_be_cancelled_commits_nothing(start: Start) -> None:
    lease = Leased(start)
    call = asyncio.ensure_future(lease.ref.options(timeout=1).stubborn())
    await soon(lease.running.wait())
    lease.lose_lease()
    lease.runtime.stop_acting()
    with pytest.raises(ConnectionLost):
        await soon(call)
    lease.new_lease()
    assert await soon(lease.ref.look()) == {}
    lease.gate.set()
    await until(lambda: "not cancelled" in lease.ran, "the old turn's end")
    await settle()
    assert lease.store.attempts == 0
    assert await soon(lease.ref.look()) == {}


async def test_losing_the_lease_drops_activations_without_on_deactivate_or_release(start: Start) -> None:
    lease = Leased(start)
    await soon(lease.ref.quick())
    lease.lose_lease()
    lease.runtime.stop_acting()
    await settle()
    assert lease.ran == ["quick"]
    assert lease.directory.released == []
    assert not lease.runtime.activations


async def test_a_stream_stops_at_the_deadline(start: Start) -> None:
    lease = Leased(start)
    stream = lease.ref.items.stream()
    assert await soon(anext(stream)) == 1
    await soon(lease.running.wait())
    lease.lose_lease()
    lease.gate.set()
    with pytest.raises(ConnectionLost):
        await soon(anext(stream))


async def test_a_claim_that_ends_after_the_deadline_activates_nothing(start: Start) -> None:
    lease = Leased(start)
    lease.directory.gate = asyncio.Event()
    call = asyncio.ensure_future(lease.ref.options(timeout=1).quick())
    await settle()
    lease.lose_lease()
    lease.directory.gate.set()
    await settle()
    assert not lease.runtime.activations
    with pytest.raises(ClusterUnavailable):
        await soon(call)
    assert lease.ran == []


async def test_an_activation_that_ends_after_the_deadline_runs_nothing(start: Start) -> None:
    gate = asyncio.Event()
    ran: list[str] = []
    clock, directory = ManualClock(), LeasedDirectory(["slow"])
    directory.lease_end = 200.0

    class Slow(Actor):
        async def on_activate(self) -> None:
            await gate.wait()

        async def receive(self, message: object) -> None:
            ran.append("turn")

    start(Slow, clock=clock, directory=directory)
    call = asyncio.ensure_future(actor_ref("slow-1").options(timeout=1).ask())
    await settle()
    clock.monotonic = 300.0
    gate.set()
    with pytest.raises((ClusterUnavailable, ConnectionLost)):
        await soon(call)
    assert ran == []


async def test_the_next_activation_has_a_higher_epoch(start: Start) -> None:
    lease = Leased(start)
    await soon(lease.ref.quick())
    lease.lose_lease()
    lease.runtime.stop_acting()
    lease.new_lease()
    await soon(lease.ref.quick())
    first, second = (commit.epoch for commit in lease.store.commits)
    assert second > first


# -- requests over links --------------------------------------------------------------------------------------------


def request(name: str, *args: object, mode: Mode = Mode.ASK, id: int = 1, **more: Any) -> Request:
    payload = codec.encode_arguments("test", args, {}, lambda *_: False)
    return Request(id, "journal-1", name, payload, mode, 5.0, f"m{id}", **more)


async def test_a_client_is_answered_on_its_link_with_its_own_id(start: Start) -> None:
    runtime = start(Journal)
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [request("note", 5, id=42)])
    reply = await link.answer()
    assert isinstance(reply, Reply)
    assert (reply.id, codec.decode(reply.payload, trusted=True)) == (42, 5)
    runtime.inbound.on_envelopes(link, [request("note", 6, id=43)])  # now that the actor is active
    reply = await link.answer()
    assert isinstance(reply, Reply)
    assert reply.id == 43


async def test_a_clients_messages_keep_their_order(start: Start) -> None:
    runtime = start(Journal)
    link = FakeLink(trusted=True)
    modes = [Mode.ASK, Mode.SEND]
    runtime.inbound.on_envelopes(link, [request("note", n, mode=modes[n % 2], id=n + 1) for n in range(50)])
    await until(lambda: len(link.sent) >= 50, "all answers")
    await settle()
    assert sorted(envelope.id for envelope in link.sent) == list(range(1, 51)), "one answer to each"
    assert await soon(actor_ref("journal-1").all()) == list(range(50))
    assert {type(envelope) for envelope in link.sent} == {Reply, Accepted}


async def test_a_silo_that_asks_for_what_is_not_here_is_told_so(start: Start) -> None:
    runtime = start(Journal)
    link = FakeLink("other.1", trusted=True, peer_is_silo=True)
    runtime.inbound.on_envelopes(link, [request("note", 5, id=7)])
    assert await link.answer() == NotHere(7)
    assert not runtime.activations


async def test_a_clients_stream_obeys_its_credit_and_its_leaving(start: Start) -> None:
    produced: list[int] = []

    class Journal(Actor):
        @handler
        async def count(self) -> Any:
            for n in range(100):
                produced.append(n)
                yield n

        @handler
        async def free(self) -> str:
            return "free"

    runtime = start(Journal)
    for active in (False, True):
        link = FakeLink(f"client-{active}", trusted=True)
        produced.clear()
        runtime.inbound.on_envelopes(link, [request("count", mode=Mode.STREAM, id=3, credit=5)])
        await until(lambda link=link: len(link.sent) == 5, "the first items")  # type: ignore[misc]
        await settle()
        assert len(link.sent) == 5
        assert len(produced) == 6
        runtime.inbound.on_envelopes(link, [Credit(3, 2)])
        await settle()
        assert len(link.sent) == 7
        runtime.inbound.on_envelopes(link, [Leave(3)])
        await settle()
        assert len(link.sent) == 7
        assert {type(envelope) for envelope in link.sent} == {Item}
        assert len(produced) == 100
        assert await soon(actor_ref("journal-1").free()) == "free"


async def test_a_link_that_closes_lets_the_turns_of_its_calls_go_on(start: Start) -> None:
    gate = asyncio.Event()
    ended: list[int] = []

    class Journal(Actor):
        @handler
        async def count(self) -> Any:
            for n in range(100):
                yield n
            ended.append(1)

        @handler
        async def wait(self) -> None:
            await gate.wait()
            ended.append(2)

    runtime = start(Journal)
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [request("count", mode=Mode.STREAM, id=3, credit=5), request("wait", id=4)])
    await until(lambda: link.sent, "the first items")
    link.closed = True
    runtime.inbound.on_closed(link, [])
    gate.set()
    await until(lambda: ended == [1, 2], "the ends of both turns")
    assert not any(type(envelope) is End for envelope in link.sent)


async def test_envelopes_that_make_no_sense_are_no_harm(start: Start) -> None:
    runtime = start(Journal)
    link = FakeLink(trusted=False)
    strange: list[Any] = [
        Reply(99, b""), Failure(98, "Timeout", "x"), Accepted(97), Item(96, b"\xc1"), End(95), Credit(94, 5),
        Leave(93), NotHere(92),
        Request(1, "no address", "x", b"", Mode.ASK, 1.0, "m"), Request(2, "ghost-1", "x", b"", Mode.ASK, 1.0, "m"),
        Request(3, "journal-1", "note", b"\xc1\xc1", Mode.ASK, 1.0, "m"),
        Request(4, "journal-1", "note", b"", Mode.STREAM, 1.0, "m"),
        Request(5, "journal-" + "x" * 300, "note", b"\x90", Mode.ASK, 1.0, "m"),
    ]  # fmt: skip
    runtime.inbound.on_envelopes(link, strange)
    await settle()
    await until(lambda: {e.id for e in link.sent} >= {2, 3, 4}, "refusals")
    assert all(isinstance(envelope, Failure) for envelope in link.sent)
    assert "journal-" + "x" * 300 not in runtime.activations
    assert await soon(actor_ref("journal-1").note(1)) == 1
