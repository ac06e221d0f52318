"""Actors that move to another silo: what they take along, and what happens when the way is not free."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors import Actor, ActorFailed, ConnectionLost, actor_ref, codec, handler
from actors.envelope import Query
from actors.errors import ClusterUnavailable, Rejected
from actors.luggage import Luggage, PackedTimer, put_back_timers
from actors.migration import MOVE, MOVED
from actors.settings import Settings
from cluster.silo import Silo
from cluster.testing import TestCluster
from tests.cluster.waiting import eventually


@dataclass
class Seen:
    numbers: list[int] = field(default_factory=list)


class Gates:
    """What the actors here wait for."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()


gates: Gates


@pytest.fixture(autouse=True)
async def _new_gates() -> None:
    global gates
    gates = Gates()


class Memory(Actor, persist="never", placement="local", carries=("cache", "unset", "door")):
    """All of it is in memory."""

    state: Seen

    def __init__(self) -> None:
        self.cache: dict[str, set[int]] = {}
        self.door: Any = None
        self.ticks = 0
        self.left_for: list[str] = []

    async def on_activate(self) -> None:
        self.had = dict(self.cache)

    @handler
    async def add(self, number: int) -> list[int]:
        self.state.numbers.append(number)
        self.cache.setdefault("all", set()).add(number)
        return self.state.numbers

    @handler
    async def hold(self, number: int) -> list[int]:
        gates.reached.set()
        await gates.open.wait()
        return await self.add(number)

    @handler
    async def look(self) -> tuple[list[int], dict[str, set[int]], dict[str, set[int]]]:
        return self.state.numbers, self.cache, self.had

    @handler
    async def lock(self) -> None:
        self.door = asyncio.Event().wait()  # a coroutine: nothing can take that along
        self.door.close()

    @handler
    async def hoard(self, size: int) -> int:
        self.door = self.door or bytes(size)
        return len(self.door)

    @handler
    async def go(self, to: str | None = None) -> None:
        self.migrate(to)


class Clock(Actor, persist="never", placement="local"):
    """Ticks."""

    @handler
    async def start(self, *, every: float | None, after: float) -> None:
        self.timer(self.tick, "set", after=after, every=every)
        self.timer(lambda: None, after=1000)

    async def tick(self, which: str) -> None:
        gates.reached.set()

    @handler
    async def go(self) -> None:
        self.migrate()


class Punctual(Clock, persist="never"):
    """Sets its timer whenever it is activated."""

    async def on_activate(self) -> None:
        self.timer(self.tick, "own", after=3600, every=3600)

    @handler
    async def timers(self) -> list[float]:
        return [timer.left() for timer in self._activation.timers_left()]


class Journal(Actor, placement="local", carries=("warm",)):
    """Its state is stored; only ``warm`` is not."""

    state: Seen

    def __init__(self) -> None:
        self.warm = 0

    async def receive(self, message: int) -> int:
        self.state.numbers.append(message)
        self.warm += 1
        await self.publish(message)
        return self.warm

    @handler
    async def approval(self) -> tuple[Any, int]:
        return await self.wait_for("approval", timeout=100), self.warm

    @handler
    async def go(self, to: str | None = None) -> int:
        self.state.numbers.append(0)
        self.migrate(to)
        return len(self.state.numbers)


ACTORS: list[type[Actor]] = [Memory, Clock, Punctual, Journal]


@pytest.fixture
async def cluster() -> AsyncIterator[TestCluster]:
    async with TestCluster(actors=ACTORS, silos=2) as cluster:
        yield cluster


async def settle(cluster: TestCluster, address: str, on: int) -> None:
    """Return when the address is active on that silo."""
    silo = cluster.silos[on]
    await eventually(f"{address} is active on n{on + 1}", lambda: address in silo.runtime.activations)


def owner(cluster: TestCluster, address: str) -> Silo:
    where = cluster.where(address)
    assert where is not None
    return cluster.silos[where]


def other(cluster: TestCluster, address: str) -> Silo:
    return next(silo for silo in cluster.silos if silo is not owner(cluster, address))


async def test_a_silo_that_drains_sends_everything_in_memory_along(cluster: TestCluster) -> None:
    addresses = [f"memory-{number}" for number in range(200)]
    for number, address in enumerate(addresses):
        await actor_ref(address).add(number)
    index = cluster.where(addresses[0])
    assert index is not None
    here = [address for address in addresses if cluster.where(address) == index]
    assert here

    await cluster.stop(index)

    await eventually("all are live on the other silo", lambda: all(cluster.where(a) == 1 - index for a in addresses))
    active = cluster.silos[1 - index].runtime.activations
    assert all(address in active for address in here), "they go on before anybody asks for them"
    for number, address in enumerate(addresses):
        before = {"all": {number}} if address in here else {}
        assert await actor_ref(address).look() == ([number], {"all": {number}}, before)


async def test_an_actor_moves_when_it_wants_to_and_where(cluster: TestCluster) -> None:
    ref = actor_ref("memory-1")
    await ref.add(1)
    start = cluster.where("memory-1")
    assert start is not None
    before = owner(cluster, "memory-1").runtime.activations["memory-1"].epoch

    await ref.go()

    await settle(cluster, "memory-1", 1 - start)
    assert owner(cluster, "memory-1").runtime.activations["memory-1"].epoch > before
    assert await ref.add(2) == [1, 2]
    await ref.go(f"n{start + 1}")
    await settle(cluster, "memory-1", start)
    assert (await ref.look())[:2] == ([1, 2], {"all": {1, 2}})

    with pytest.raises(ActorFailed, match=r"cannot move to 'n9' \(silos that take it: n[12]\)"):
        await ref.go("n9")
    assert await ref.add(3) == [1, 2, 3]


async def test_alone_it_stays_as_it_is() -> None:
    async with TestCluster(actors=ACTORS) as cluster:
        ref = actor_ref("memory-1")
        await ref.add(1)
        activation = cluster.silos[0].runtime.activations["memory-1"]
        await ref.go()
        assert await ref.look() == ([1], {"all": {1}}, {})
        assert cluster.silos[0].runtime.activations["memory-1"] is activation


async def test_the_running_turn_ends_first_and_what_waits_goes_along_in_order(cluster: TestCluster) -> None:
    ref = actor_ref("memory-1")
    held = asyncio.create_task(ref.hold(0))
    await gates.reached.wait()
    waiting = [asyncio.create_task(ref.add(number)) for number in range(1, 20)]
    index = cluster.where("memory-1")
    assert index is not None
    activation = cluster.silos[index].runtime.activations["memory-1"]
    await eventually("they wait", lambda: activation.waiting == 19)

    stopping = asyncio.create_task(cluster.stop(index))
    await eventually("it drains", lambda: cluster.silos[index].runtime.draining)
    gates.open.set()

    assert await held == [0]
    assert [len(await task) for task in waiting] == list(range(2, 21))
    await stopping
    assert (await ref.look())[0] == list(range(20))
    assert cluster.where("memory-1") == 1 - index


async def test_of_a_turn_that_does_not_end_only_the_turn_is_lost() -> None:
    async with TestCluster(actors=ACTORS, silos=2) as cluster:
        ref = actor_ref("memory-1")
        await ref.add(1)
        held = asyncio.create_task(ref.hold(2))
        await gates.reached.wait()
        silo = owner(cluster, "memory-1")
        silo._drain_limit = 0.1
        await silo.stop()
        with pytest.raises(ConnectionLost):
            await held
        assert (await ref.look())[:2] == ([1], {"all": {1}})


async def test_what_cannot_travel_is_named_and_the_rest_arrives(
    cluster: TestCluster, caplog: pytest.LogCaptureFixture
) -> None:
    ref = actor_ref("memory-1")
    await ref.add(1)
    await ref.lock()
    start = cluster.where("memory-1")
    assert start is not None
    await ref.go()
    await settle(cluster, "memory-1", 1 - start)
    assert (await ref.look())[:2] == ([1], {"all": {1}})
    assert "memory-1: self.door does not travel: " in caplog.text


async def test_timers_keep_their_time(cluster: TestCluster, caplog: pytest.LogCaptureFixture) -> None:
    ref = actor_ref("clock-1")
    await ref.start(every=0.01, after=0.01)
    await ref.go()
    await eventually("it has moved", lambda: "clock-1: a timer does not travel" in caplog.text)
    start = cluster.where("clock-1")
    assert start is not None
    await settle(cluster, "clock-1", start)

    gates.reached.clear()
    await gates.reached.wait()


async def test_a_timer_that_on_activate_sets_is_there_once_and_keeps_its_time(cluster: TestCluster) -> None:
    ref = actor_ref("punctual-1")
    (first,) = await ref.timers()
    start = cluster.where("punctual-1")
    assert start is not None
    await ref.go()
    await settle(cluster, "punctual-1", 1 - start)
    (second,) = await ref.timers()
    assert second < first


async def test_durable_actors_take_their_attributes_and_readers_miss_nothing(cluster: TestCluster) -> None:
    ref = actor_ref("journal-1")
    seen: list[object] = []

    async def read() -> None:
        async for event in ref.channel().subscribe():
            seen.append(event.data)  # noqa: PERF401  # it is looked at meanwhile

    reading = asyncio.create_task(read())
    try:
        for number in range(1, 11):
            assert await ref.ask(number) == number
            await ref.go()
        await eventually("the reader has all", lambda: seen == list(range(1, 11)))
    finally:
        reading.cancel()
    assert sum(silo.runtime.migration.arrived for silo in cluster.silos) >= 9


async def test_a_turn_that_waits_for_a_signal_waits_on_elsewhere(cluster: TestCluster) -> None:
    ref = actor_ref("journal-1")
    await ref.ask(1)
    waiting = asyncio.create_task(ref.approval())
    start = cluster.where("journal-1")
    assert start is not None
    activation = cluster.silos[start].runtime.activations["journal-1"]
    await eventually("it waits", lambda: activation.current is not None and activation.current.dormant)
    await cluster.stop(start)
    await settle(cluster, "journal-1", 1 - start)
    await ref.signal("approval", "yes")
    assert await waiting == ("yes", 1)


async def test_who_asks_for_it_on_the_way_waits_for_its_memory(
    cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the transfer and the word of the first silo the directory says already where it lives."""
    ref = actor_ref("memory-1")
    await ref.add(1)
    source, target = owner(cluster, "memory-1"), other(cluster, "memory-1")
    transfer = source.runtime.directory.transfer
    asking: list[asyncio.Task[Any]] = []

    async def slow(address: str, epoch: int, silo: str) -> int | None:
        asking.append(asyncio.create_task(target.runtime.claims.own(address)))
        done = await transfer(address, epoch, silo)
        asking.append(asyncio.create_task(target.runtime.claims.own(address)))
        await asyncio.wait(asking, timeout=0.05)
        assert not any(task.done() for task in asking)
        return done

    monkeypatch.setattr(source.runtime.directory, "transfer", slow)
    await ref.go()
    await settle(cluster, "memory-1", cluster.silos.index(target))
    assert (await ref.look())[:2] == ([1], {"all": {1}})
    assert {route.silo for route in await asyncio.gather(*asking)} == {target.runtime.directory.silo}


async def test_a_transfer_that_does_not_happen_leaves_it_where_it_is(
    cluster: TestCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ref = actor_ref("memory-1")
    await ref.add(1)
    source, target = owner(cluster, "memory-1"), other(cluster, "memory-1")

    async def no(address: str, epoch: int, silo: str) -> int | None:
        return None

    monkeypatch.setattr(source.runtime.directory, "transfer", no)
    await ref.go()
    await eventually("it says so", lambda: "memory-1: it stays on n" in caplog.text)
    assert (await ref.look())[:2] == ([1], {"all": {1}})
    assert owner(cluster, "memory-1") is source
    await eventually("nothing is left of the offer", lambda: not target.runtime.migration.expects("memory-1"))


async def test_a_silo_that_refuses_does_not_cost_the_memory(
    cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = actor_ref("memory-1")
    await ref.add(1)
    target = other(cluster, "memory-1")

    def refuse(link: object, query: Query) -> None:
        raise ClusterUnavailable("not now")

    monkeypatch.setattr(target.runtime.migration, "on_query", refuse)
    await ref.go()
    assert (await ref.look())[:2] == ([1], {"all": {1}})
    assert owner(cluster, "memory-1") is not target


async def test_a_silo_that_dies_before_its_word_keeps_nobody_waiting(
    cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = actor_ref("journal-1")
    assert await ref.ask(1) == 1
    source, target = owner(cluster, "journal-1"), other(cluster, "journal-1")
    transfer = source.runtime.directory.transfer

    async def last(address: str, epoch: int, silo: str) -> int | None:
        await transfer(address, epoch, silo)
        gates.reached.set()
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(source.runtime.directory, "transfer", last)
    await ref.go()
    await gates.reached.wait()
    asking = asyncio.create_task(target.runtime.claims.own("journal-1"))
    await cluster.kill(cluster.silos.index(source))
    assert (await asking).silo == target.runtime.directory.silo
    assert await ref.ask(3) == 1, "what was in memory only is lost with the silo"
    assert await actor_ref("journal-1").go() == 4, "and nothing else"


async def test_who_has_too_much_to_travel_stays_with_all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async with TestCluster(actors=ACTORS, silos=2, settings=Settings(max_payload=100_000)) as cluster:
        ref = actor_ref("memory-1")
        assert await ref.hoard(300_000) == 300_000
        start = cluster.where("memory-1")
        await ref.go()
        await eventually("it says so", lambda: "memory-1: it could not be moved to n" in caplog.text)
        assert "over the limit" in caplog.text
        assert await ref.hoard(1) == 300_000
        assert cluster.where("memory-1") == start


async def test_a_timer_that_cannot_be_read_costs_nothing_else(
    cluster: TestCluster, caplog: pytest.LogCaptureFixture
) -> None:
    await actor_ref("punctual-1").timers()
    activation = owner(cluster, "punctual-1").runtime.activations["punctual-1"]
    unreadable, good = PackedTimer("tick", b"\xc1", 1.0, None), PackedTimer("tick", codec.encode(("x",)), 60.0, None)
    put_back_timers(activation, Luggage(timers=[unreadable, good]))
    assert "punctual-1: the timer of tick did not arrive" in caplog.text
    assert len(await actor_ref("punctual-1").timers()) == 2


async def test_only_silos_move_actors(cluster: TestCluster) -> None:
    assert cluster._client is not None
    runtime = cluster._client._runtime
    assert runtime is not None
    link = await runtime.transport.connect("gateway")
    for topic in (MOVE, MOVED):
        query = Query(runtime.next_id(), topic, "memory-1", b"\x01")
        with pytest.raises(Rejected, match="only silos"):
            await runtime.question(link, query, about="memory-1")


@pytest.mark.parametrize("names", [("state",), ("a b",), ("_activation",), ("send",)])
def test_what_cannot_be_carried(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be carried"):

        class Bad(Actor, carries=names):
            pass
