"""The durable engine in one process: inbox, one commit per turn, answers to repeats, outbox."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from actors import (
    Actor,
    ActorFailed,
    ClusterUnavailable,
    ConnectionLost,
    IdempotencyKeyReused,
    MailboxFull,
    MessageParked,
    StateUnreadable,
    actor_ref,
    codec,
    handler,
    records,
)
from actors.envelope import Accepted, Failure, Mode, Reply, Request
from actors.inbox import Inbox
from actors.ports import Commit, Opened, StoreUnavailable
from actors.records import Done, Pending
from actors.runtime import Runtime
from actors.settings import Settings
from actors.turn import NOBODY, Turn
from cluster.store.memory import MemoryData
from tests.unit.conftest import Start
from tests.unit.fakes import FakeLink, ManualClock, ScriptedStore, settle, soon, until


@dataclass
class Log:
    seen: list[Any] = field(default_factory=list)


class Keeper(Actor):
    state: Log
    gate: asyncio.Event

    async def receive(self, message: Any) -> int:
        self.state.seen.append(message)
        return len(self.state.seen)

    @handler
    async def slowly(self, message: Any) -> int:
        await Keeper.gate.wait()
        self.state.seen.append(message)
        return len(self.state.seen)

    @handler
    async def fail(self, message: Any) -> None:
        self.state.seen.append(message)
        raise ValueError(message)

    @handler
    async def forward(self, to: str, *messages: Any) -> None:
        for message in messages:
            await actor_ref(to).send(message)
        if "fail" in messages:
            raise ValueError("fail")

    @handler(readonly=True)
    async def all(self) -> list[Any]:
        return self.state.seen


@pytest.fixture(autouse=True)
def gate() -> asyncio.Event:
    Keeper.gate = asyncio.Event()
    return Keeper.gate


def rows(store: ScriptedStore, address: str, kind: bytes) -> dict[bytes, bytes]:
    record = store.data.records.get(address)
    return {key: value for key, value in (record.records if record else {}).items() if key.startswith(kind)}


def messages(store: ScriptedStore, address: str) -> list[Pending | Done]:
    return [records.message_rows.decode(value) for value in rows(store, address, records.MESSAGE).values()]


def envelope(name: str, *args: object, mode: Mode = Mode.ASK, id: int = 1, **more: Any) -> Request:
    payload = codec.encode_arguments("test", args, {}, lambda *_: False)
    more.setdefault("message_id", f"m{id}")
    return Request(id, "keeper-1", name, payload, mode, 5.0, **more)


# -- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (records.MESSAGE + bytes(16), b"\x92\x63\x01"),
        (records.OUTBOX + bytes(16), b"\x91\x01"),
        (records.CHANNEL + b"output", b"\xa1x"),
    ],
)
async def test_a_record_that_only_a_newer_release_can_read_is_named_and_left_untouched(
    start: Start, store: ScriptedStore, kind: bytes, value: bytes
) -> None:
    await store.open("keeper-1", 1)
    await store.commit(Commit(address="keeper-1", epoch=1, put={kind: value}))
    start(Keeper, store=store)
    with pytest.raises(StateUnreadable, match=f"keeper-1: the stored record {kind.hex()} cannot be read by release"):
        await soon(actor_ref("keeper-1").ask("x"))
    assert rows(store, "keeper-1", kind) == {kind: value}


async def test_records_of_kinds_that_are_not_known_are_passed_over_and_kept(start: Start, store: ScriptedStore) -> None:
    await store.open("keeper-1", 1)
    await store.commit(Commit(address="keeper-1", epoch=1, put={b"\x7f": b"of a newer release"}))
    start(Keeper, store=store)
    assert await soon(actor_ref("keeper-1").ask("x")) == 1
    assert rows(store, "keeper-1", b"\x7f") == {b"\x7f": b"of a newer release"}


async def test_fields_that_a_newer_release_has_added_to_a_record_are_passed_over(
    start: Start, store: ScriptedStore
) -> None:
    await store.open("keeper-1", 1)
    message = msgspec.msgpack.decode(records.encode(Pending(envelope("", "from before", mode=Mode.SEND))))
    message[1].append("a field of the request")
    put = {records.MESSAGE + bytes(16): records.encode([*message, "and of its row"])}
    await store.commit(Commit(address="keeper-1", epoch=1, put=put))
    start(Keeper, store=store)
    assert await soon(actor_ref("keeper-1").ask("x")) == 2
    assert store.state_of("keeper-1") == {"seen": ["from before", "x"]}


async def test_a_message_from_outside_that_another_version_took_runs_public_handlers_only(
    start: Start, store: ScriptedStore
) -> None:
    """The silo that took it may not have known the handler, and so not whether it is public."""
    await store.open("keeper-1", 1)
    taken = Pending(envelope("forward", "keeper-2", "x", mode=Mode.SEND, outside=True))
    await store.commit(Commit(address="keeper-1", epoch=1, put={records.MESSAGE + bytes(16): records.encode(taken)}))
    start(Keeper, store=store)
    await soon(actor_ref("keeper-1").ask("x"))
    (parked,) = rows(store, "keeper-1", records.PARKED).values()
    assert "cannot be called from outside" in msgspec.msgpack.decode(parked, type=records.Parked).reason


# -- the inbox ------------------------------------------------------------------------------------------------------


async def test_a_message_is_accepted_when_its_row_is_durable_and_not_before(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    start(Keeper, store=store)
    await soon(actor_ref("keeper-1").ask("first"))
    store.hold()
    sending = asyncio.ensure_future(actor_ref("keeper-1").slowly.send("x"))
    await soon(store.waiting.wait())
    await settle()
    assert not sending.done(), "the output gate: nothing is said before it is durable"
    store.let_go()
    await soon(sending)
    assert [row for row in messages(store, "keeper-1") if isinstance(row, Pending)]
    gate.set()
    await until(lambda: store.state_of("keeper-1") == {"seen": ["first", "x"]}, "the turn's commit")
    assert not [row for row in messages(store, "keeper-1") if isinstance(row, Pending)]


async def test_a_message_for_an_idle_actor_that_answers_at_once_costs_one_commit(
    start: Start, store: ScriptedStore
) -> None:
    start(Keeper, store=store)
    await soon(actor_ref("keeper-1").ask("first"))
    before = len(store.commits)
    await soon(actor_ref("keeper-1").send("x"))
    assert len(store.commits) == before + 1
    assert store.state_of("keeper-1") == {"seen": ["first", "x"]}


async def test_a_turn_that_changes_nothing_writes_nothing(start: Start, store: ScriptedStore) -> None:
    class Still(Actor):
        async def receive(self, message: object) -> object:
            return message

    start(Still, store=store)
    assert await soon(actor_ref("still-1").ask(1)) == 1
    await soon(actor_ref("still-1").send(2))
    assert store.attempts == 0


async def test_what_was_accepted_runs_after_its_silo_was_lost(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    first = start(Keeper, store=store)
    for n in range(5):
        await soon(actor_ref("keeper-1").slowly.send(n))
    first.vanish()
    gate.set()
    await revived(start, store)
    await until(lambda: (store.state_of("keeper-1") or {}).get("seen") == [0, 1, 2, 3, 4], "all of them, in order")
    assert messages(store, "keeper-1") == [] or all(isinstance(row, Done) for row in messages(store, "keeper-1"))
    await until(lambda: store.data.records["keeper-1"].wake is None, "nothing is left to do")


async def revived(start: Start, store: ScriptedStore) -> Runtime:
    """Another silo, which finds by itself what there is to do."""
    runtime = start(Keeper, store=ScriptedStore(store.data))
    runtime.spawn(runtime.keep_agenda())
    return runtime


async def test_what_waits_is_seen_to_where_the_answer_to_the_opening_got_lost(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    """The store takes the silo for the host of the actor then, and no other silo looks after it."""

    class AnswerLost(ScriptedStore):
        lost = 0

        async def open(self, address: str, epoch: int, host: str = "") -> Opened:
            opened = await super().open(address, epoch, host)
            if not self.lost:
                self.lost += 1
                raise StoreUnavailable("no answer")
            return opened

    first = start(Keeper, store=store)
    await soon(actor_ref("keeper-1").slowly.send("x"))
    first.vanish()
    gate.set()
    runtime = start(Keeper, store=AnswerLost(store.data))
    runtime.spawn(runtime.keep_agenda())
    await until(lambda: (store.state_of("keeper-1") or {}).get("seen") == ["x"], "what was accepted")


async def test_who_waits_behind_a_refused_commit_is_told_that_the_actor_cannot_be_loaded_again(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    start(Keeper, store=store)
    ref = actor_ref("keeper-1")
    await soon(ref.ask("first"))
    calls = [asyncio.ensure_future(ref.slowly("running")), asyncio.ensure_future(ref.ask("waiting"))]
    await settle()
    store.refusals.append(StoreUnavailable("disk full"))
    store.open_failures.append(StoreUnavailable("disk full"))
    gate.set()
    for told in await soon(asyncio.gather(*calls, return_exceptions=True)):
        assert isinstance(told, ClusterUnavailable)
    assert await soon(ref.ask("later")) == 2


async def test_a_full_mailbox_keeps_no_row(start: Start, store: ScriptedStore, gate: asyncio.Event) -> None:
    class Small(Keeper, max_queue=2):
        pass

    start(Small, store=store)
    ref = actor_ref("small-1")
    await soon(ref.all())
    results = await asyncio.gather(*(ref.slowly.send(n) for n in range(6)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, MailboxFull)]
    assert len(refused) == 3
    assert len(messages(store, "small-1")) == 3
    gate.set()
    await until(lambda: len((store.state_of("small-1") or {"seen": []})["seen"]) == 3, "those that were accepted")


async def test_a_refused_admission_is_told_and_leaves_the_others_alone(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    start(Keeper, store=store)
    ref = actor_ref("keeper-1")
    await soon(ref.ask("first"))
    waiting = asyncio.ensure_future(ref.slowly("ask"))
    await settle()
    store.refusals.append(StoreUnavailable("disk full"))
    await soon(ref.slowly.send("second"))  # both are taken on by the activation that follows
    gate.set()
    assert await soon(waiting) == 2
    await until(lambda: (store.state_of("keeper-1") or {}).get("seen") == ["first", "ask", "second"], "in order")


# -- repeats --------------------------------------------------------------------------------------------------------


async def test_a_repeat_gets_the_answer_of_the_first_time(start: Start, store: ScriptedStore) -> None:
    runtime = start(Keeper, store=store)
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [envelope("", "x", id=1)])
    first = await link.answer()
    runtime.inbound.on_envelopes(link, [envelope("", "x", id=2, message_id="m1", attempt=1)])
    second = await link.answer()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (second.id, second.payload) == (2, first.payload)
    assert first.recorded
    assert store.state_of("keeper-1") == {"seen": ["x"]}


@pytest.mark.parametrize("fails", [False, True])
async def test_who_got_the_answer_to_a_repeat_is_safe_from_the_first_attempt(
    start: Start, store: ScriptedStore, *, fails: bool
) -> None:
    """It was on its way all the time, and comes when the message could do more than it could before."""

    class Bus(Actor, type="keeper"):
        state: Log
        full = True

        async def receive(self, message: str) -> str:
            if Bus.full and fails:
                raise ValueError("full")
            if Bus.full:
                return "full"
            self.state.seen.append(message)
            return "welcome"

    runtime = start(Bus, store=store)
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [envelope("", "x", id=2, message_id="m1", attempt=1)])
    told = await link.answer()
    Bus.full = False
    runtime.inbound.on_envelopes(link, [envelope("", "x", id=1, message_id="m1")])
    again = await link.answer()
    assert isinstance(told, Failure if fails else Reply)
    assert again == msgspec.structs.replace(told, id=1, recorded=True)
    assert not (store.state_of("keeper-1") or {}).get("seen")


async def test_a_repeat_to_an_actor_that_cannot_be_activated_is_not_told_that_the_message_failed(
    start: Start, store: ScriptedStore
) -> None:
    """Its first attempt may be on its way through another silo, and run when the actor can be activated."""

    class Moody(Actor, type="keeper"):
        async def on_activate(self) -> None:
            await asyncio.sleep(0)
            raise OSError("no coffee")

    runtime = start(Moody, store=store)
    link = FakeLink("n2.1", trusted=True, peer_is_silo=True)
    for attempt, number, told in (
        (0, b"", "ActorFailed"), (1, b"", "ConnectionLost"), (1, records.number(7, 1), "ActorFailed"),
    ):  # fmt: skip
        await runtime.claims.own("keeper-1")
        first = envelope("", "x", sender="other-1", attempt=attempt, number=number)
        runtime.inbound.on_envelopes(link, [first, msgspec.structs.replace(first, id=2)])
        for answer in (await link.answer(), await link.answer()):
            assert isinstance(answer, Failure)
            assert (answer.error, "no coffee" in answer.text) == (told, True)


async def test_a_repeat_gets_the_failure_of_a_journaled_turn_too(start: Start, store: ScriptedStore) -> None:
    class Stepper(Actor):
        ran = 0

        async def receive(self, message: object) -> None:
            await self.step("one", self.body)
            raise ValueError("after the step")

        async def body(self) -> None:
            Stepper.ran += 1

    runtime = start(Stepper, store=store)
    link = FakeLink(trusted=True)
    request = envelope("", "x")
    request.address = "stepper-1"
    runtime.inbound.on_envelopes(link, [request])
    first = await link.answer()
    again = envelope("", "x", id=2, message_id="m1")
    again.address = "stepper-1"
    runtime.inbound.on_envelopes(link, [again])
    second = await link.answer()
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert second.text == first.text
    assert Stepper.ran == 1
    assert rows(store, "stepper-1", records.JOURNAL) == {}


async def test_a_repeat_while_the_first_runs_waits_for_it(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    runtime = start(Keeper, store=store)
    link, other = FakeLink(trusted=True), FakeLink("client-2", trusted=True)
    runtime.inbound.on_envelopes(link, [envelope("slowly", "x")])
    await settle()
    runtime.inbound.on_envelopes(other, [envelope("slowly", "x", attempt=1)])
    await settle()
    gate.set()
    answers = [await link.answer(), await other.answer()]
    assert [codec.decode(answer.payload, trusted=True) for answer in answers if isinstance(answer, Reply)] == [1, 1]


async def test_a_repeat_after_a_new_activation_gets_the_answer_from_the_store(
    start: Start, store: ScriptedStore
) -> None:
    first = start(Keeper, store=store)
    link = FakeLink(trusted=True)
    large = "x" * 100_000
    first.inbound.on_envelopes(link, [envelope("", large)])
    await link.answer()
    first.vanish()
    second = start(Keeper, store=store)
    second.inbound.on_envelopes(link, [envelope("", large, id=9, message_id="m1", attempt=1)])
    again = await link.answer()
    assert isinstance(again, Reply)
    assert (again.id, codec.decode(again.payload, trusted=True)) == (9, 1)
    assert len(store.state_of("keeper-1")["seen"]) == 1


async def test_what_a_refused_call_acknowledged_is_forgotten_with_the_next(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    start(Keeper, store=store, settings=Settings(max_calls=1))
    ref = actor_ref("keeper-1")
    await soon(ref.ask("first"))
    (first,) = messages(store, "keeper-1")
    waiting = asyncio.ensure_future(actor_ref("keeper-2").slowly("takes all the room"))
    await settle()
    with pytest.raises(MailboxFull, match="1 of at most 1 calls"):
        await ref.ask("refused")
    gate.set()
    await soon(waiting)
    await soon(ref.ask("second"))
    assert first not in messages(store, "keeper-1")


async def test_what_the_caller_acknowledged_is_forgotten(start: Start, store: ScriptedStore) -> None:
    start(Keeper, store=store)
    ref = actor_ref("keeper-1")
    for n in range(20):
        await soon(ref.ask(n))
        await soon(ref.send(n))
    assert len(messages(store, "keeper-1")) == 1, "only the last one is still to be acknowledged"


async def test_the_same_key_runs_once_and_another_message_with_it_is_refused(
    start: Start, store: ScriptedStore
) -> None:
    first = start(Keeper, store=store)
    keyed = actor_ref("keeper-1").options(idempotency_key="k")
    assert await soon(keyed.ask("x")) == 1
    assert await soon(keyed.ask("x")) == 1
    await soon(keyed.send("x"))
    with pytest.raises(IdempotencyKeyReused, match="'k'"):
        await soon(keyed.ask("y"))
    with pytest.raises(IdempotencyKeyReused):
        await soon(keyed.slowly("x"))
    first.vanish()
    start(Keeper, store=store)
    assert await soon(keyed.ask("x")) == 1
    assert await soon(actor_ref("keeper-1").all()) == ["x"]


async def test_the_same_key_while_the_first_runs_waits_for_its_result(start: Start, gate: asyncio.Event) -> None:
    start(Keeper)
    keyed = actor_ref("keeper-1").options(idempotency_key="k")
    asks = [asyncio.ensure_future(keyed.slowly("x")) for _ in range(3)]
    await settle()
    gate.set()
    assert await soon(asyncio.gather(*asks)) == [1, 1, 1]


async def test_a_keyed_failure_is_the_answer_too(start: Start) -> None:
    start(Keeper)
    keyed = actor_ref("keeper-1").options(idempotency_key="k")
    for _ in range(2):
        with pytest.raises(ActorFailed, match="boom"):
            await soon(keyed.fail("boom"))
    assert await soon(actor_ref("keeper-1").all()) == []


# -- the outbox -----------------------------------------------------------------------------------------------------


async def test_what_a_turn_sends_leaves_with_its_commit_or_never(start: Start, store: ScriptedStore) -> None:
    start(Keeper, store=store)
    with pytest.raises(ActorFailed):
        await soon(actor_ref("keeper-1").forward("keeper-2", "a", "fail"))
    await soon(actor_ref("keeper-1").forward("keeper-2", *range(100)))
    await until(lambda: (store.state_of("keeper-2") or {}).get("seen") == list(range(100)), "all of them, in order")
    await until(lambda: not rows(store, "keeper-1", records.OUTBOX), "the rows are removed")
    assert store.data.records["keeper-1"].wake is None


async def test_nothing_leaves_before_the_commit(start: Start, store: ScriptedStore) -> None:
    start(Keeper, store=store)
    await soon(actor_ref("keeper-2").ask("first"))
    store.hold()
    forwarding = asyncio.ensure_future(actor_ref("keeper-1").forward("keeper-2", "x"))
    await soon(store.waiting.wait())
    await settle()
    assert await soon(actor_ref("keeper-2").all()) == ["first"]
    assert not forwarding.done()
    store.let_go()
    await soon(forwarding)


@pytest.mark.parametrize("kind", ["keeper", "guest_book"])
async def test_what_was_sent_behind_a_message_that_cannot_be_delivered_arrives_once(
    start: Start, store: ScriptedStore, kind: str
) -> None:
    class GuestBook(Actor, persist="never"):
        def __init__(self) -> None:
            self.seen: list[object] = []

        async def receive(self, message: object) -> None:
            self.seen.append(message)

        @handler(readonly=True)
        async def all(self) -> list[object]:
            return self.seen

    class Writer(Actor):
        state: Log

        @handler
        async def write(self, to: str) -> None:
            for message in (1, 2):
                await actor_ref(to).send(message)
            await actor_ref(to).unheard_of.send("x")
            for message in (3, 4):
                await actor_ref(to).send(message)

    start(Keeper, GuestBook, Writer, store=store)
    await soon(actor_ref("writer-1").write(f"{kind}-1"))
    await until(lambda: not rows(store, "writer-1", records.OUTBOX), "the rows are removed")
    assert await soon(actor_ref(f"{kind}-1").all()) == [1, 2, 3, 4]


async def test_a_repeated_delivery_takes_effect_once(start: Start, store: ScriptedStore) -> None:
    runtime = start(Keeper, store=store)
    link = FakeLink("n2.1", trusted=True, peer_is_silo=True)

    async def deliver(n: int, id: int, attempt: int = 0, previous: int = 0) -> Accepted | Failure:
        number = records.number(7, n)
        before = records.number(7, previous) if previous else b""
        request = envelope(
            "", n, mode=Mode.SEND, id=id, message_id=f"o{n}", sender="other-1", number=number, previous=before,
            attempt=attempt,
        )  # fmt: skip
        if "keeper-1" not in runtime.activations:
            await runtime.claims.own("keeper-1")
        runtime.inbound.on_envelopes(link, [request])
        answer = await link.answer()
        assert isinstance(answer, Accepted | Failure)
        return answer

    assert isinstance(await deliver(1, 1), Accepted)
    assert isinstance(await deliver(1, 2, attempt=1), Accepted)
    assert isinstance(await deliver(3, 3, previous=2), Failure), "2 is missing: it must not be overtaken"
    assert isinstance(await deliver(2, 4, previous=1), Accepted)
    assert isinstance(await deliver(3, 5, previous=2), Accepted)
    runtime.vanish()
    runtime = start(Keeper, store=store)
    assert isinstance(await deliver(2, 6, attempt=1), Accepted)
    await settle()
    assert store.state_of("keeper-1") == {"seen": [1, 2, 3]}


async def test_the_next_silo_delivers_what_was_left(start: Start) -> None:
    data = MemoryData()
    store = ScriptedStore(data)
    first = start(Keeper, store=store)

    class Dying(ScriptedStore):
        async def commit(self, commit: Any) -> None:
            await super().commit(commit)
            if any(key.startswith(records.OUTBOX) for key in commit.put):
                first.vanish()

    first.store = Dying(data)
    forwarding = asyncio.ensure_future(actor_ref("keeper-1").forward("keeper-2", 1, 2, 3))
    await until(lambda: rows(store, "keeper-1", records.OUTBOX), "the commit")
    await settle()
    assert "keeper-2" not in data.records
    await first.close()
    with pytest.raises(ConnectionLost):
        await soon(forwarding)
    await revived(start, store)
    await until(lambda: (store.state_of("keeper-2") or {}).get("seen") == [1, 2, 3], "the delivery")
    await until(lambda: not rows(store, "keeper-1", records.OUTBOX), "the rows are removed")


async def test_a_look_up_that_fails_when_its_activation_has_ended_concerns_nobody(start: Start) -> None:
    """The silo lost its lease, and its activations with it, while the store was asked whether a message is new."""

    class Away(ScriptedStore):
        asked, failed = asyncio.Event(), asyncio.Event()

        async def read(self, *args: Any, **kwargs: Any) -> list[tuple[bytes, bytes]]:
            self.asked.set()
            await self.failed.wait()
            raise StoreUnavailable("the store is away")

    store = Away()
    runtime = start(Keeper, store=store)
    await actor_ref("keeper-1").ask("first")
    asking = asyncio.ensure_future(actor_ref("keeper-1").options(idempotency_key="k").ask("second"))
    await soon(store.asked.wait())
    runtime.stop_acting()
    assert not runtime.activations
    store.failed.set()
    await settle()
    assert store.state_of("keeper-1")["seen"] == ["first"]
    asking.cancel()


async def test_a_turn_that_can_never_be_committed_is_parked_in_the_end(start: Start, store: ScriptedStore) -> None:
    class Hopeless(ScriptedStore):
        async def commit(self, commit: Any) -> None:
            if commit.state is not None:
                raise ValueError("a value of more than 128 MiB")
            await super().commit(commit)

    gate = Keeper.gate
    gate.set()
    start(Keeper, store=Hopeless(store.data))
    await soon(actor_ref("keeper-1").slowly.send("x"))
    await until(lambda: rows(store, "keeper-1", records.PARKED), "it is parked")
    assert await soon(actor_ref("keeper-1").all()) == []


async def test_a_turn_that_deletes_its_actor_leaves_no_state(start: Start, store: ScriptedStore) -> None:
    class Leaver(Actor):
        state: Log

        async def receive(self, message: Any) -> None:
            self.state.seen.append(message)
            await self.delete()

        @handler
        async def all(self) -> list[Any]:
            return self.state.seen

    start(Leaver, store=store)
    await soon(actor_ref("leaver-1").ask("x"))
    assert await soon(actor_ref("leaver-1").all()) == []
    assert store.state_of("leaver-1") is None


async def test_a_store_that_cannot_say_which_keys_have_expired_harms_nobody(
    start: Start, store: ScriptedStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(ScriptedStore):
        async def read(self, address: str, first: bytes, *args: Any, **kwargs: Any) -> list[tuple[bytes, bytes]]:
            if first == records.EXPIRY:
                raise StoreUnavailable("the disk is slow")
            return await super().read(address, first, *args, **kwargs)

    start(Keeper, store=Forgetful(store.data))
    for key in ("k", "l"):
        await soon(actor_ref("keeper-1").options(idempotency_key=key).ask(key))
    await until(lambda: "keeper-1: expired idempotency keys stay for now: the disk is slow" in caplog.text, "a word")
    assert store.state_of("keeper-1")["seen"] == ["k", "l"]


async def test_keys_and_answers_are_kept_for_the_retention_time_and_no_longer(
    start: Start, store: ScriptedStore
) -> None:
    clock = ManualClock()
    runtime = start(Keeper, store=store, clock=clock)
    keyed = actor_ref("keeper-1").options(idempotency_key="k")
    link = FakeLink(trusted=True)
    runtime.inbound.on_envelopes(link, [envelope("", "never acknowledged")])
    await link.answer()
    assert await soon(keyed.ask("x")) == 2
    clock.monotonic += 23 * 3600
    assert await soon(keyed.ask("x")) == 2
    clock.monotonic += 2 * 3600
    assert await soon(keyed.ask("x")) == 3, "the key is free again"
    assert await soon(keyed.ask("x")) == 3
    await until(lambda: len(rows(store, "keeper-1", records.EXPIRY)) == 2, "the purge has read what expired")
    await soon(actor_ref("keeper-1").ask("one more"))
    assert len(rows(store, "keeper-1", records.KEYED)) == 1
    assert len(rows(store, "keeper-1", records.EXPIRY)) == 1
    kept = [row.message_id for row in messages(store, "keeper-1") if isinstance(row, Done)]
    assert "m1" not in kept
    assert await soon(keyed.ask("x")) == 3


async def test_a_stream_that_waits_is_carried_over_a_failed_commit(start: Start, store: ScriptedStore) -> None:
    class Pourer(Actor):
        state: Log

        @handler
        async def change(self) -> None:
            await Keeper.gate.wait()
            self.state.seen.append(1)

        @handler
        async def pour(self) -> Any:
            yield len(self.state.seen)

    start(Pourer, store=store)
    ref = actor_ref("pourer-1")
    assert [item async for item in ref.pour.stream()] == [0]
    changing = asyncio.ensure_future(ref.change())
    await settle()
    stream = ref.pour.stream()
    pouring = asyncio.ensure_future(anext(stream))
    await settle()
    store.refusals.append(StoreUnavailable("disk full"))
    Keeper.gate.set()
    with pytest.raises(ClusterUnavailable, match="disk full"):
        await soon(changing)
    assert await soon(pouring) == 0


async def test_a_request_between_two_sends_keeps_its_place_over_a_crash(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    first = start(Keeper, store=store)
    ref = actor_ref("keeper-1")
    running = asyncio.ensure_future(ref.slowly("running"))
    await settle()
    calls = [asyncio.ensure_future(call) for call in (ref.send("a"), ref.ask("b"), ref.send("c"))]
    await soon(asyncio.gather(calls[0], calls[2]))
    first.vanish()
    gate.set()
    await revived(start, store)
    await until(lambda: len((store.state_of("keeper-1") or {"seen": []})["seen"]) == 4, "all of them")
    assert store.state_of("keeper-1")["seen"] == ["running", "a", "b", "c"]
    for call in (running, *calls):
        call.cancel()


async def test_what_a_turn_sends_to_a_full_mailbox_comes_again_when_there_is_room(
    start: Start, store: ScriptedStore, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(Keeper, max_queue=1):
        pass

    class Other(Keeper):
        pass

    refused: list[Request] = []

    class Heard(Inbox):
        def refused(self, turn: Turn) -> None:
            refused.append(turn.request)
            super().refused(turn)

    monkeypatch.setattr("actors.durable.Inbox", Heard)
    start(Small, Other, store=store)
    await soon(actor_ref("small-1").slowly.send("first"))
    await soon(actor_ref("other-1").forward("small-1", "a", "b", "c"))
    await until(lambda: len(refused) == 4, "two are refused, as often before as after the sender is known")
    gate.set()
    await until(lambda: (store.state_of("small-1") or {}).get("seen") == ["first", "a", "b", "c"], "all of them")


async def test_a_message_that_is_refused_for_its_key_does_not_free_the_key(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    start(Keeper, store=store)
    ref = actor_ref("keeper-1").options(idempotency_key="k")
    first = await soon(ref.slowly.send("a"))
    with pytest.raises(IdempotencyKeyReused):
        await soon(ref.slowly.send("b"))
    assert await soon(ref.slowly.send("a")) == first
    gate.set()
    assert await soon(ref.slowly("a")) == 1


async def test_a_turn_that_is_being_committed_is_not_given_back_by_a_silo_that_leaves(
    start: Start, store: ScriptedStore
) -> None:
    """What is stored behind its last commit would let it run once more."""

    class Lasting(ScriptedStore):
        async def commit(self, commit: Commit) -> None:
            await asyncio.shield(asyncio.ensure_future(super().commit(commit)))  # who waits may go

    store = Lasting(store.data)
    runtime = start(Keeper, store=store)
    store.hold()
    asking = asyncio.ensure_future(actor_ref("keeper-1").ask("once"))
    await soon(store.waiting.wait())
    leaving = asyncio.ensure_future(runtime.drain(limit=0.01))
    await asyncio.wait({leaving}, timeout=0.05)  # it has given up on the turn by then
    store.let_go()
    await soon(leaving)
    asking.cancel()
    runtime.vanish()
    rows = await store.read("keeper-1", records.MESSAGE, records.JOURNAL, limit=9)
    assert [type(records.message_rows.decode(row)) for _, row in rows] == [Done]

    start(Keeper, store=ScriptedStore(store.data))
    assert await soon(actor_ref("keeper-1").ask("twice")) == 2


async def test_a_reminder_s_turn_is_given_back_by_a_silo_that_leaves(start: Start, store: ScriptedStore) -> None:
    class Late(Keeper):
        @handler
        async def plan(self) -> None:
            await self.remind("now", after=0)

        async def on_reminder(self, name: str) -> None:
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    runtime = start(Late, store=store)
    await soon(actor_ref("late-1").plan())
    await soon(begun.wait())
    await soon(runtime.drain(limit=0.01))
    assert [row.adoptions for row in messages(store, "late-1") if isinstance(row, Pending)] == [-1]


async def test_a_message_that_is_parked_changes_nothing_of_what_is_known_of_its_sender(
    start: Start, store: ScriptedStore
) -> None:
    """Else the next one of that sender could pass for an old one, and be lost."""
    runtime = start(Keeper, store=store)
    await soon(actor_ref("keeper-1").ask(0))
    activation = runtime.activations["keeper-1"]
    inbox = activation.durable_side.inbox

    async def enter(sender: str, number: int) -> tuple[Turn, bool]:
        request = envelope("", 0, mode=Mode.SEND, message_id=f"{sender} {number}", sender=sender, number=b"%d" % number)
        turn = Turn(activation, request, NOBODY, activation.type.handlers[""], 0.0)
        await inbox.look_up(request)
        return turn, inbox.enter(turn)

    parked, _ = await enter("a", 1)
    parked.row = True
    for number in (7, 8):
        await enter("b", number)
    parked.refuse(MessageParked("parked"))
    assert [(await enter(sender, number))[1] for sender, number in (("a", 1), ("a", 2), ("b", 8))] == [
        False,
        True,
        False,
    ]


async def test_what_is_being_stored_when_a_read_fails_is_not_called_refused(
    start: Start, store: ScriptedStore, gate: asyncio.Event
) -> None:
    runtime = start(Keeper, store=store, settings=Settings(max_adoptions=0))
    asking = asyncio.ensure_future(actor_ref("keeper-1").slowly("first"))
    await until(lambda: "keeper-1" in runtime.activations and runtime.activations["keeper-1"].current, "its turn")
    activation = runtime.activations["keeper-1"]
    store.hold()
    sending = asyncio.ensure_future(actor_ref("keeper-1").send("x"))
    await soon(store.waiting.wait())
    assert activation.current is not None
    failing = asyncio.ensure_future(activation.read_failed(activation.current, StoreUnavailable("away")))
    await settle()
    store.let_go()
    await soon(sending)
    await soon(failing)
    gate.set()
    await soon(asking)
    await until(lambda: store.state_of("keeper-1") == {"seen": ["first", "x"]}, "what was accepted takes effect")
