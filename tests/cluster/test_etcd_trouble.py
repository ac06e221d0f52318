"""An etcd of three members in trouble: one is lost, the quorum is, it is slow, it comes back empty or older."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from actors import actor_ref
from actors.errors import ClusterUnavailable, OutcomeUnknown
from actors.ref import ActorRef
from cluster import Silo
from cluster.clock import SystemClock
from cluster.etcd import EtcdServer
from tests.cluster.etcd.members import leader_of, three_members
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.house import House, membership_of, silo_id
from tests.cluster.waiting import answered, eventually

TTL = 4


@pytest.fixture
async def members(tmp_path: Path) -> AsyncIterator[list[EtcdServer]]:
    async with three_members(tmp_path / "etcd") as members:
        yield members


@pytest.fixture
async def house(members: list[EtcdServer], tmp_path: Path) -> AsyncIterator[House]:
    async with House(members[0], tmp_path, lease_ttl=TTL) as house:
        yield house


def endpoints(members: Sequence[EtcdServer | Proxy]) -> list[str]:
    return [member.endpoint for member in members]


class Callers:
    """One caller for each counter, which adds 1 again and again, and tolerates no error. Ends with its block."""

    def __init__(self, names: Sequence[str], *, each: int = 4) -> None:
        self.refs = [actor_ref(f"counter-{name}.{number}") for name in names for number in range(each)]
        self.told: dict[str, list[int]] = {ref.address: [] for ref in self.refs}
        self._enough = asyncio.Event()
        self._tasks = [asyncio.create_task(self._count(ref)) for ref in self.refs]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _count(self, ref: ActorRef) -> None:
        while not self._enough.is_set():
            self.told[ref.address].append(await ref.options(timeout=60).add(1))

    async def go_on(self, count: int) -> None:
        """Return when each has got so many answers more."""
        goal = {address: len(told) + count for address, told in self.told.items()}
        await eventually(
            f"{count} more answers each",
            lambda: any(task.done() for task in self._tasks) or all(len(self.told[a]) >= goal[a] for a in goal),
            within=40,
        )
        for task in self._tasks:
            if task.done():
                task.result()

    @property
    def answers(self) -> int:
        return sum(map(len, self.told.values()))

    async def stop(self) -> None:
        """Begin nothing new. Every answer was the next number: nothing was lost and nothing took effect twice."""
        self._enough.set()
        await asyncio.gather(*self._tasks)
        for ref in self.refs:
            told = self.told[ref.address]
            assert told == [*range(1, len(told) + 1)], ref.address
            assert await ref.options(timeout=20).value() == len(told), ref.address


def activations_of(*silos: Silo) -> dict[str, object]:
    return {address: life for silo in silos for address, life in silo.runtime.activations.items()}


def epochs_of(*silos: Silo) -> dict[str, int]:
    return {address: life.epoch for silo in silos for address, life in silo.runtime.activations.items()}


async def renewed(*silos: Silo) -> None:
    """Return when the silos' leases have been confirmed anew."""
    goal = SystemClock().now() + TTL * 0.9
    await eventually("the leases are renewed", lambda: all(membership_of(silo).deadline > goal for silo in silos))


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an error, or with a traceback."""
    return [it.getMessage() for it in caplog.records if it.levelno >= logging.ERROR or it.exc_info]


# -- members die -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
async def test_nobody_notices_that_one_member_dies(
    exits: AsyncExitStack, house: House, members: list[EtcdServer], leads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that all silos talk to. No call fails, no activation and no lease ends, and actors can be activated."""
    leader = await leader_of(members)
    chosen = leader if leads else next(member for member in members if member is not leader)
    order = endpoints([chosen, *(member for member in members if member is not chosen)])
    n1, n2 = await house.start("n1", "n2", etcd=order, lease_ttl=8)
    before = (silo_id(n1), silo_id(n2))
    await house.client()
    callers = await exits.enter_async_context(Callers(["n1", "n2"]))
    await callers.go_on(5)
    active = activations_of(n1, n2)

    await chosen.kill()

    await callers.go_on(20)
    for name in ("n1", "n2"):
        assert await actor_ref(f"counter-{name}.new").options(timeout=20).add(1) == 1
    await renewed(n1, n2)
    await callers.stop()
    assert (silo_id(n1), silo_id(n2)) == before
    now = activations_of(n1, n2)
    assert all(now.get(address) is life for address, life in active.items()), "an activation was lost"
    assert complaints(caplog) == []


@pytest.mark.parametrize("frozen", [False, True], ids=["dead", "frozen"])
async def test_everything_stops_with_the_quorum_and_comes_back_with_it(
    exits: AsyncExitStack, house: House, members: list[EtcdServer], frozen: bool, caplog: pytest.LogCaptureFixture
) -> None:
    n1, n2 = await house.start("n1", "n2", etcd=endpoints(members))
    before = {silo_id(n1), silo_id(n2)}
    await house.client()
    callers = await exits.enter_async_context(Callers(["n1", "n2"]))
    await callers.go_on(5)
    slow, sent = actor_ref("counter-n1.slow").options(timeout=60), actor_ref("counter-n2.sent")
    await sent.value()  # it is active
    running = asyncio.create_task(slow.add_slowly(7))
    await eventually("the turn runs", slow.is_slow)

    for member in members[:2]:
        if frozen:
            member.pause()
        else:
            await member.kill()

    await sent.add.send(3)
    await callers.go_on(3)  # what is active serves on
    await eventually("the silos stop by their own clocks", lambda: not n1.ready and not n2.ready, within=2 * TTL)
    await eventually("their activations are dropped", lambda: not activations_of(n1, n2))
    answers = callers.answers
    with pytest.raises((ClusterUnavailable, OutcomeUnknown)):
        await actor_ref("counter-n1.0").options(timeout=0.5).value()
    assert callers.answers == answers, "somebody was answered without a lease"
    assert not running.done()

    for member in members[:2]:
        if frozen:
            member.resume()
        else:
            member.spawn()

    await eventually("both silos are back", lambda: n1.ready and n2.ready, within=40)
    assert not {silo_id(n1), silo_id(n2)} & before
    await callers.go_on(5)
    await callers.stop()
    await eventually("the turn runs again", slow.is_slow)
    await slow.finish()
    assert await running == 7
    assert await sent.options(timeout=20).value() == 3
    assert complaints(caplog) == []


# -- slow --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def proxies(members: list[EtcdServer]) -> AsyncIterator[list[Proxy]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Proxy(member.endpoint)) for member in members]


def delay(proxies: Sequence[Proxy], seconds: float) -> None:
    for proxy in proxies:
        proxy.delay = seconds


async def test_a_slow_etcd_costs_no_lease_and_no_call(
    exits: AsyncExitStack, house: House, proxies: list[Proxy]
) -> None:
    """Each answer takes half a second or more. Routes that are known need none."""
    n1, n2 = await house.start("n1", "n2", etcd=endpoints(proxies))
    before = (silo_id(n1), silo_id(n2))
    await house.client()
    callers = await exits.enter_async_context(Callers(["n1", "n2"]))
    await callers.go_on(5)
    active = activations_of(n1, n2)

    delay(proxies, 0.25)

    await renewed(n1, n2)
    await renewed(n1, n2)
    assert await actor_ref("counter-n1.new").options(timeout=20).add(1) == 1
    await callers.go_on(20)
    await callers.stop()
    assert (silo_id(n1), silo_id(n2)) == before
    now = activations_of(n1, n2)
    assert all(now.get(address) is life for address, life in active.items()), "an activation was lost"


async def test_a_silo_starts_over_a_slow_etcd(house: House, proxies: list[Proxy]) -> None:
    """A connection and a first answer take longer than the first attempt at each member waits."""
    delay(proxies, 0.3)
    (n1,) = await house.start("n1", etcd=endpoints(proxies), lease_ttl=8)
    await house.client()
    assert await actor_ref("counter-n1.a").options(timeout=40).add(1) == 1
    assert n1.ready


async def test_an_etcd_that_is_slower_than_the_lease_ends_it(
    exits: AsyncExitStack, house: House, proxies: list[Proxy]
) -> None:
    """Answers come for all that is asked, but when they do the lease that they speak of may have ended."""
    (n1,) = await house.start("n1", etcd=endpoints(proxies))
    incarnation = silo_id(n1)
    await house.client()
    callers = await exits.enter_async_context(Callers(["n1"]))
    await callers.go_on(5)

    delay(proxies, TTL)

    await eventually("n1 stops by its own clock", lambda: not n1.ready, within=2 * TTL)
    await eventually("its activations are dropped", lambda: not activations_of(n1))
    delay(proxies, 0)
    await eventually("n1 is back", lambda: n1.ready and silo_id(n1) != incarnation, within=40)
    await callers.go_on(5)
    await callers.stop()


# -- etcd without its past ---------------------------------------------------------------------------------------------


def data(folder: Path) -> list[Path]:
    """The data directories of the members."""
    return [folder / "etcd" / f"m{number}" / "data" for number in range(3)]


async def all_stop(members: list[EtcdServer]) -> None:
    await asyncio.gather(*(member.stop() for member in members))


async def all_start(members: list[EtcdServer]) -> None:
    for member in members:
        member.spawn()
    await asyncio.gather(*(member.wait_ready() for member in members))


async def test_epochs_rise_over_an_etcd_that_is_restarted_empty(
    exits: AsyncExitStack, house: House, members: list[EtcdServer], tmp_path: Path
) -> None:
    """Its revisions begin anew, far below those that the store has seen."""
    n1, n2 = await house.start("n1", "n2", etcd=endpoints(members))
    before = {silo_id(n1), silo_id(n2)}
    await house.client()
    callers = await exits.enter_async_context(Callers(["n1", "n2"]))
    await callers.go_on(5)
    epochs = epochs_of(n1, n2)
    await all_stop(members)
    for folder in data(tmp_path):
        shutil.rmtree(folder)

    await all_start(members)

    await eventually(
        "both silos are back", lambda: n1.ready and n2.ready and not {silo_id(n1), silo_id(n2)} & before, within=40
    )
    await callers.go_on(5)
    await callers.stop()
    now = epochs_of(n1, n2)
    assert now.keys() >= epochs.keys()
    assert all(now[address] > epoch for address, epoch in epochs.items()), (epochs, now)


async def add_to_each(refs: list[ActorRef], result: int) -> None:
    """Add 1 once, however often that has to be tried."""
    for ref in refs:
        once = ref.options(timeout=5, idempotency_key=f"to {result}")
        value, _ = await answered(ref.address, once.add, within=30)
        assert value == result, ref.address


@pytest.mark.parametrize("restarted", [False, True], ids=["the silos go on", "the silos are new, too"])
async def test_no_actor_is_unopenable_over_an_etcd_from_an_older_snapshot(
    exits: AsyncExitStack, house: House, members: list[EtcdServer], tmp_path: Path, restarted: bool
) -> None:
    """Silos remember what they have seen of etcd; new ones learn from the store that it is older."""
    n1, n2 = await house.start("n1", "n2", etcd=endpoints(members))
    client = await house.client()
    await all_stop(members)
    backups = [tmp_path / f"backup{number}" for number in range(3)]
    for folder, backup in zip(data(tmp_path), backups, strict=True):
        shutil.copytree(folder, backup)
    await all_start(members)
    refs = [actor_ref(f"counter-{name}.{number}") for name in ("n1", "n2") for number in range(20)]
    await add_to_each(refs, 1)
    epochs = epochs_of(n1, n2)

    if restarted:
        await asyncio.gather(n1.abort(), n2.abort())
    await all_stop(members)
    for folder, backup in zip(data(tmp_path), backups, strict=True):
        shutil.rmtree(folder)
        shutil.copytree(backup, folder)
    await all_start(members)
    if restarted:
        n1, n2 = house.new("n1", etcd=endpoints(members)), house.new("n2", etcd=endpoints(members))
        await asyncio.gather(n1.start(), n2.start())
        for silo in (n1, n2):
            client.add_endpoint(silo.grpc)

    await add_to_each(refs, 2)
    now = epochs_of(n1, n2)
    assert all(now[address] > epoch for address, epoch in epochs.items()), (epochs, now)
