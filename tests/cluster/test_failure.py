"""Silos that are killed, frozen or asked to go: what their actors promised is kept by the others."""

import asyncio
import signal
import time

import msgspec
import pytest

from actors import actor_ref
from actors.errors import ActorError, ClusterUnavailable
from actors.ports import Commit, Fenced, Store
from cluster import Client, Silo, connect
from cluster.store import open_store
from tests.cluster.house import House, calling_from, membership_of, silo_id
from tests.cluster.processes import TTL, Cluster, gone
from tests.cluster.waiting import answered, eventually


async def test_actors_of_a_killed_process_answer_from_the_others_with_their_state(cluster: Cluster) -> None:
    n1, _, _ = await cluster.start("n1", "n2", "n3")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        refs = [actor_ref(f"counter-n1.{number}") for number in range(20)]
        assert await asyncio.gather(*(ref.add(number + 1) for number, ref in enumerate(refs))) == [*range(1, 21)]
        assert await refs[0].process() == n1.pid

        await n1.kill()

        started = time.monotonic()
        found = await asyncio.gather(*(answered(ref.address, ref.options(timeout=5).value, within=10) for ref in refs))
        took = time.monotonic() - started
        assert [value for value, _ in found] == [*range(1, 21)]
        assert took < TTL + 2, f"{took:.1f} s with a lease of {TTL} s"
        assert await refs[0].where() in ("n2", "n3")
        assert await refs[0].add(1) == 2


async def test_what_is_asked_in_a_burst_takes_effect_exactly_once_whatever_is_killed(cluster: Cluster) -> None:
    """The answers of each actor are 1, 2, 3, ...: no call failed, none was lost or counted twice."""
    n1, _ = await cluster.start("n1", "n2")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        refs = [actor_ref(f"counter-n1.{number}") for number in range(10)]
        told: list[list[int]] = [[] for _ in refs]
        enough = asyncio.Event()

        async def count_up(number: int) -> None:
            while not enough.is_set():
                told[number].append(await refs[number].options(timeout=20).add(1))

        counting = [asyncio.create_task(count_up(number)) for number in range(len(refs))]
        await eventually("a burst is under way", lambda: min(map(len, told)) >= 20)
        await n1.kill()
        seen = [len(answers) for answers in told]
        await eventually(
            "all go on", lambda: _any_ended(counting) or all(len(a) > s + 5 for a, s in zip(told, seen, strict=True))
        )
        enough.set()
        await asyncio.gather(*counting)

        for ref, answers in zip(refs, told, strict=True):
            assert answers == [*range(1, len(answers) + 1)], ref.address
            assert await ref.value() == len(answers), ref.address


def _any_ended(tasks: list[asyncio.Task[None]]) -> bool:
    return any(task.done() for task in tasks)


async def test_a_frozen_process_is_replaced_and_comes_back_without_harm(cluster: Cluster) -> None:
    """It wakes up in the middle of a turn that the new owner has run meanwhile: it commits nothing and starts anew."""
    n1, _ = await cluster.start("n1", "n2")
    store = await open_store(cluster.store_url)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        ref = actor_ref("counter-n1.a")
        assert await ref.add(5) == 5
        before = {member.silo for member in await client.members()}
        # Due long before it wakes up: the first thing that it does then is to commit this turn.
        running = asyncio.create_task(ref.options(timeout=30).add_after(100_000, 0.5))
        await eventually("the turn runs", ref.options(timeout=5).is_slow)
        n1.signal(signal.SIGSTOP)
        started = time.monotonic()

        assert await running == 100_005, "the turn runs again where the actor lives now"
        assert time.monotonic() - started < TTL + 3
        assert await ref.where() == "n2"
        assert await ref.add(1) == 100_006
        n1.signal(signal.SIGCONT)
        await n1.said("has rejoined as", within=15)
        assert await ref.options(timeout=5).add(1) == 100_007, "the zombie took effect"
        assert await ref.where() == "n2", "the owner is who took over"
        await eventually("n1 is another incarnation", lambda: _rejoined(client, before))
        assert await actor_ref("counter-n1.b").where() == "n1"
        assert await actor_ref("counter-n1.b").add(1) == 1
        assert await _stored_value(store, ref.address) == 100_007
    await store.close()


async def _rejoined(client: Client, before: set[str]) -> bool:
    members = await client.members()
    return len(members) == 2 and any(member.silo not in before and member.name == "n1" for member in members)


async def _stored_value(store: Store, address: str) -> int:
    """Read the counter from the store itself."""
    stored = await store.state(address)
    assert stored is not None
    value: int = msgspec.msgpack.decode(stored[1:])["value"]
    return value


async def test_a_zombie_without_a_clock_is_fenced_by_the_store(house: House) -> None:
    """Guards the fence: the zombie neither notices the end of its lease nor trusts its clock; the store refuses it.

    Without the comparison of epochs in the store's commit the counter would be 105. When it is refused it
    passes the turn on to the new owner, where it takes effect once.
    """
    n1, n2 = await house.start("n1", "n2", lease_ttl=60)
    ref = actor_ref("counter-n1.a")
    with calling_from(n1):
        assert await ref.add(5) == 5
        running = asyncio.create_task(ref.add_slowly(100))
        await eventually("the turn runs", ref.is_slow)
    zombie, lease = membership_of(n1), membership_of(n1).member
    assert lease is not None
    zombie._lose = lambda why: None  # type: ignore[method-assign]  # it hears nothing
    n1.runtime.clock = _StoppedClock()
    await (await house.etcd()).revoke(lease.lease)
    await eventually("n2 has seen the end of it", lambda: [m.name for m in n2.members] == ["n2"])

    with calling_from(n2):
        assert await ref.options(timeout=5).add(2) == 7
        assert await ref.where() == "n2"
    assert n1.runtime.may_act(), "the zombie believes that it may act"
    with calling_from(n1):
        n1.runtime.activations[ref.address].actor.gate.set()  # type: ignore[attr-defined]
    with calling_from(n2):
        await eventually("the turn runs where the actor lives now", ref.is_slow)
        assert await ref.value() == 7, "what the zombie did took effect"
        await ref.finish()
        assert await running == 107
        assert await ref.add(1) == 108
    assert await _stored_value(await house.store(), ref.address) == 108


class _StoppedClock:
    def now(self) -> float:
        return 0.0

    def time(self) -> float:
        return time.time()


async def test_a_stale_epoch_opens_and_commits_nothing(house: House) -> None:
    """The same fence, asked directly with the epoch of an activation that was replaced."""
    n1, n2 = await house.start("n1", "n2", lease_ttl=60)
    with calling_from(n1):
        assert await actor_ref("counter-n1.a").add(5) == 5
        stale = n1.runtime.activations["counter-n1.a"].epoch
        await n1.stop()
    with calling_from(n2):
        assert await actor_ref("counter-n1.a").add(1) == 6
    store = await house.store()
    with pytest.raises(Fenced):
        await store.commit(Commit(address="counter-n1.a", epoch=stale, state=b"zombie"))
    with pytest.raises(Fenced):
        await store.open("counter-n1.a", stale)


async def test_sigterm_stores_what_is_stored_at_the_end_and_others_go_on_at_once(cluster: Cluster) -> None:
    n1, _ = await cluster.start("n1", "n2")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        diary, counter = actor_ref("diary-n1.a"), actor_ref("counter-n1.a")
        assert await diary.add(4) == 4
        assert await counter.add(5) == 5
        assert await diary.where() == "n1"

        n1.signal(signal.SIGTERM)
        ended = await n1.ended(within=10)

        assert ended.status == 0
        started = time.monotonic()
        value, _ = await answered("the diary", diary.options(timeout=5).add, within=5)
        assert value == 5
        assert await counter.add(1) == 6
        assert (await diary.where(), await counter.where()) == ("n2", "n2")
        assert time.monotonic() - started < 1.5, "nobody has to wait for the end of a lease"


async def test_calls_go_on_while_one_silo_after_the_other_is_restarted(cluster: Cluster) -> None:
    """A rolling restart: the silos drain, the actor moves, the client's gateway goes, and no call fails."""
    silos = await cluster.start("n1", "n2")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        ref, told, stop = actor_ref("counter-n1.a"), list[int](), asyncio.Event()

        async def count_up() -> None:
            while not stop.is_set():
                told.append(await ref.options(timeout=10).add(1))

        counting = asyncio.create_task(count_up())
        for name, silo in zip(("n1", "n2"), silos, strict=True):
            seen = len(told)
            await eventually("calls are answered", lambda seen=seen: counting.done() or len(told) > seen + 5)
            silo.signal(signal.SIGTERM)
            assert (await silo.ended(within=10)).status == 0
            await cluster.start(name)
        seen = len(told)
        await eventually("calls are answered", lambda: counting.done() or len(told) > seen + 5)
        stop.set()
        await counting
        assert told == [*range(1, len(told) + 1)]
        assert await ref.value() == len(told)


async def test_everything_dies_and_comes_back_with_its_state(cluster: Cluster) -> None:
    silos = await cluster.start("n1", "n2")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        for name in ("n1", "n2"):
            assert await actor_ref(f"counter-{name}.a").add(7) == 7
    for silo in silos:
        silo.signal(signal.SIGKILL)
    await gone(*(silo.pid for silo in silos))
    await cluster.start("n2", "n1")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        for name in ("n1", "n2"):
            value, _ = await answered("the counter", actor_ref(f"counter-{name}.a").options(timeout=5).add, within=10)
            assert value == 8


async def test_the_silo_of_a_caller_is_lost(house: House) -> None:
    """Its calls end with an error; the actor elsewhere goes on undisturbed and is free afterwards."""
    n1, n2 = await house.start("n1", "n2", lease_ttl=2)
    with calling_from(n1):
        call = asyncio.create_task(actor_ref("counter-n2.a").add_slowly(5))
        await eventually("the turn runs", actor_ref("counter-n2.a").is_slow)
        await n1.abort()
        with pytest.raises(ActorError):
            await call
        with pytest.raises(ClusterUnavailable):
            await actor_ref("counter-n2.a").add(1)
    with calling_from(n2):
        await actor_ref("counter-n2.a").finish()
        assert await actor_ref("counter-n2.a").add(1) == 6


async def test_a_killed_silo_loses_no_actor_to_its_dead_entry(house: House) -> None:
    """All addresses of the dead are claimed at once by those who are left, each by one."""
    n1, n2, n3 = await house.start("n1", "n2", "n3", lease_ttl=2)
    refs = [actor_ref(f"counter-n1.{number}") for number in range(100)]
    with calling_from(n1):
        await asyncio.gather(*(ref.add(1) for ref in refs))
    await n1.abort()
    await house.acquainted(n2, n3)

    async def from_both(address: str) -> tuple[int, int]:
        values = []
        for silo in (n2, n3):
            with calling_from(silo):
                values.append(asyncio.create_task(_add(address)))
        return (await values[0], await values[1])

    answers = await asyncio.gather(*(from_both(ref.address) for ref in refs))
    assert {tuple(sorted(pair)) for pair in answers} == {(2, 3)}
    hosts: list[Silo] = [n2, n3]
    assert sum(ref.address in host.runtime.activations for ref in refs for host in hosts) == 100
    assert silo_id(n2) != silo_id(n3)


async def _add(address: str) -> int:
    value: int
    value, _ = await answered(address, actor_ref(address).options(timeout=5).add, within=10)
    return value
