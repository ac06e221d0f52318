"""What waits for an actor that moves goes after it on the same link, and nothing that goes another way passes it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from actors import Actor, codec, handler
from actors.alone import LonelyDirectory
from actors.envelope import Accepted, Located, Mode, NotHere, Query, Reply, Request, Resolve
from actors.migration import MOVE, MOVED
from actors.runtime import Runtime
from cluster.clock import SystemClock
from tests.unit.fakes import FakeLink, ScriptedStore, settle, until

ADDRESS = "memory-1"
EPOCH = 1 << 41


class Memory(Actor, persist="never"):
    """Notes what reaches it."""

    noted: list[int]
    gate: asyncio.Event

    @handler
    async def note(self, number: int) -> None:
        self.noted.append(number)

    @handler
    async def hold(self) -> None:
        await self.gate.wait()


class Notebook(Actor):
    """Is stored, so that it tells repeats of a message."""

    gate: asyncio.Event

    @handler
    async def note(self, number: int) -> None:
        pass

    @handler
    async def hold(self) -> None:
        await self.gate.wait()


class TwoSilos(LonelyDirectory):
    """Places everything here, or on b.1 if it must go."""

    def place(self, address: str, but: Collection[str] = ()) -> str:
        return "b.1" if but else super().place(address)

    def members(self, type_name: str = "") -> Sequence[str]:
        return [self.silo, "b.1"]

    async def transfer(self, address: str, epoch: int, silo: str) -> int | None:
        return EPOCH


class Links:
    """Links to whichever silo is asked for; ``current`` says whether new messages go over them."""

    def __init__(self) -> None:
        self.to: dict[str, FakeLink] = {}
        self.current = True

    def link(self, silo: str) -> FakeLink | None:
        return self.to.get(silo) if self.current else None

    async def connect(self, silo: str) -> FakeLink:
        return self.to.setdefault(silo, silo_link(silo))


def silo_link(silo: str) -> FakeLink:
    return FakeLink(silo, trusted=True, peer_is_silo=True)


def message(number: int, handler: str = "note", mode: Mode = Mode.SEND, *, address: str = ADDRESS) -> Request:
    arguments = codec.encode_arguments(address, (number,) if handler == "note" else (), {}, lambda *_: False)
    return Request(number, address, handler, arguments, mode, 60.0, f"m{number}")


def numbers(envelopes: Sequence[object]) -> list[object]:
    """The numbers of messages, and the topics of queries."""
    return [
        int(envelope.message_id[1:]) if isinstance(envelope, Request) else envelope.topic
        for envelope in envelopes
        if isinstance(envelope, Request | Query)
    ]


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    Memory.noted, Memory.gate = [], asyncio.Event()
    Notebook.gate = Memory.gate
    runtime = Runtime(
        [Memory, Notebook],
        directory=TwoSilos(["memory", "notebook"], era=1, name="a.1"),
        transport=Links(),
        store=ScriptedStore(),
        clock=SystemClock(),
    )
    yield runtime
    await runtime.close()


@pytest.fixture
def links(runtime: Runtime) -> Links:
    assert isinstance(runtime.transport, Links)
    return runtime.transport


async def begin_to_move(
    runtime: Runtime, links: Links, waiting: Sequence[tuple[FakeLink, Request]], *, address: str = ADDRESS
) -> None:
    """Let the actor move while messages wait for it; the other silo has taken what it has in memory."""
    await runtime.claims.own(address)
    await runtime.activations[address].ready()
    runtime.inbound.on_envelopes(waiting[0][0], [message(1, "hold", Mode.ASK, address=address)])
    await settle()
    runtime.activations[address].migrate(None)
    for origin, request in waiting:
        runtime.inbound.on_envelopes(origin, [request])
    Memory.gate.set()
    await until(lambda: "b.1" in links.to and links.to["b.1"].sent, "the offer")
    offer = links.to["b.1"].sent[-1]
    assert isinstance(offer, Query)
    assert offer.topic == MOVE
    runtime.inbound.on_envelopes(links.to["b.1"], [Reply(offer.id, codec.encode(None))])
    await settle()


async def test_what_waits_leaves_before_the_word_that_the_actor_has_moved(runtime: Runtime, links: Links) -> None:
    origin = silo_link("c.1")
    await begin_to_move(runtime, links, [(origin, message(2)), (origin, message(3, mode=Mode.ASK))])
    sent = links.to["b.1"].sent
    assert numbers(sent) == [MOVE, 2, 3, MOVED]
    asked = next(envelope for envelope in sent if isinstance(envelope, Request) and envelope.message_id == "m3")
    runtime.inbound.on_envelopes(links.to["b.1"], [Reply(asked.id, codec.encode(7))])
    answer = origin.sent[-1]
    assert isinstance(answer, Reply)
    assert (answer.id, codec.decode(answer.payload, trusted=True)) == (3, 7)


async def test_over_a_link_that_is_about_to_end_nothing_goes_after_the_actor(runtime: Runtime, links: Links) -> None:
    links.current = False
    await begin_to_move(runtime, links, [(silo_link("c.1"), message(2))])
    assert numbers(links.to["b.1"].sent)[:2] == [MOVE, MOVED]


async def test_a_repeat_goes_where_the_message_is_that_it_repeats(runtime: Runtime, links: Links) -> None:
    address, client, lost = "notebook-1", silo_link("c.1"), silo_link("d.1")
    repeat = message(2, mode=Mode.ASK, address=address)
    repeat.attempt = 1
    later = message(3, mode=Mode.ASK, address=address)
    waiting = [(lost, message(2, mode=Mode.ASK, address=address)), (client, repeat), (client, later)]
    lost.closed = True
    await begin_to_move(runtime, links, waiting, address=address)
    assert numbers(links.to["b.1"].sent) == [MOVE, 2, 3, MOVED]


async def offered(runtime: Runtime, source: FakeLink) -> None:
    runtime.inbound.on_envelopes(source, [Query(1000, MOVE, ADDRESS, b"")])
    await settle()
    assert isinstance(source.sent.pop(), Reply)


def moved(epoch: int) -> Query:
    return Query(1001, MOVED, ADDRESS, codec.encode(epoch))


async def test_what_came_with_the_actor_runs_before_what_went_another_way(runtime: Runtime) -> None:
    source, other = silo_link("b.1"), silo_link("c.1")
    await offered(runtime, source)
    runtime.inbound.on_envelopes(source, [message(2), message(3)])
    runtime.inbound.on_envelopes(other, [message(4)])
    assert (source.sent, other.sent) == ([], [NotHere(4)])
    runtime.inbound.on_envelopes(other, [Resolve(5, ADDRESS)])
    await settle()
    assert len(other.sent) == 1, "nobody is told where it lives before it does"
    runtime.inbound.on_envelopes(source, [moved(EPOCH)])
    await until(lambda: len(other.sent) == 2, "the answer")
    assert other.sent[1] == Located(5, "a.1", EPOCH)
    runtime.inbound.on_envelopes(other, [message(4)])
    await until(lambda: len(Memory.noted) == 3, "all have run")
    assert Memory.noted == [2, 3, 4]
    assert [envelope.id for envelope in source.sent if isinstance(envelope, Accepted)] == [2, 3]


async def test_what_came_ahead_of_an_actor_that_stays_looks_for_it_again(runtime: Runtime) -> None:
    source = silo_link("b.1")
    await offered(runtime, source)
    runtime.inbound.on_envelopes(source, [message(2), moved(0)])
    await settle()
    assert [type(envelope) for envelope in source.sent] == [NotHere, Reply]
    assert ADDRESS not in runtime.activations


async def test_what_came_ahead_of_an_actor_whose_silo_was_lost_is_not_run(runtime: Runtime) -> None:
    source = silo_link("b.1")
    await offered(runtime, source)
    runtime.inbound.on_envelopes(source, [message(2)])
    runtime.inbound.on_closed(source, [])
    await runtime.claims.own(ADDRESS)
    await settle()
    assert Memory.noted == []
