"""Dead processes are noticed long before their leases end; frozen ones, and rumours, cost nobody a lease."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import pytest

from actors import actor_ref
from cluster import connect
from cluster.etcd import EtcdClient
from cluster.keys import Keys
from cluster.member import Member
from cluster.overview import list_members
from cluster.suspicion import Finding, Suspicion
from tests.cluster.processes import Cluster
from tests.cluster.waiting import answered, eventually

LONG = 3600
"""Seconds of a lease that no test waits for."""


async def test_the_actors_of_a_killed_process_do_not_wait_for_the_end_of_its_lease(cluster: Cluster) -> None:
    n1, _, _ = await cluster.start("n1", "n2", "n3", ttl=LONG)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        refs = [actor_ref(f"counter-n1.{number}") for number in range(20)]
        assert await asyncio.gather(*(ref.add(1) for ref in refs)) == [1] * 20
        await n1.kill()
        assert await asyncio.gather(*(ref.options(timeout=30).add(1) for ref in refs)) == [2] * 20
        assert await refs[0].where() in ("n2", "n3")


async def test_the_last_silo_needs_no_second_opinion(cluster: Cluster) -> None:
    n1, _ = await cluster.start("n1", "n2", ttl=LONG)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        ref = actor_ref("counter-n1.a")
        assert await ref.add(1) == 1
        await n1.kill()
        assert await ref.options(timeout=30).add(1) == 2


async def test_a_frozen_process_keeps_its_lease(cluster: Cluster) -> None:
    n1, _, _ = await cluster.start("n1", "n2", "n3", ttl=LONG)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        ref = actor_ref("counter-n1.a")
        await ref.add(1)
        before = {member.silo for member in await client.members()}
        n1.signal(signal.SIGSTOP)
        call = asyncio.create_task(ref.options(timeout=60).add(1))
        await asyncio.wait({call}, timeout=5)  # longer than a dial takes to give up, and far below the lease
        assert not call.done()
        assert {member.silo for member in await client.members()} == before
        n1.signal(signal.SIGCONT)
        assert await answered("counter-n1.a", lambda: call, within=30) is not None
        assert {member.silo for member in await client.members()} == before


async def test_a_silo_that_nobody_talks_to_is_missed_too(cluster: Cluster) -> None:
    """No call was ever made: only the link that each silo keeps to the next can tell."""
    n1, _, _ = await cluster.start("n1", "n2", "n3", ttl=LONG)
    async with EtcdClient([cluster.etcd]) as etcd:
        members = partial(list_members, etcd, Keys(cluster.name))
        await eventually("all are members", lambda: _names(members, {"n1", "n2", "n3"}))
        await n1.kill()
        await eventually("the others miss it", lambda: _names(members, {"n2", "n3"}), within=30)


async def test_a_client_of_a_frozen_silo_moves_to_another(cluster: Cluster) -> None:
    n1, n2 = await cluster.start("n1", "n2", ttl=LONG)
    endpoints = [(await silo.ready())[0]["grpc"] for silo in (n1, n2)]
    async with connect(endpoints, cluster=cluster.name):
        ref = actor_ref("counter-n2.a")
        assert await ref.add(1) == 1
        n1.signal(signal.SIGSTOP)
        assert await ref.options(timeout=60).add(1) == 2


async def test_two_that_die_at_once_need_no_witness_among_them(cluster: Cluster) -> None:
    n1, n2, _ = await cluster.start("n1", "n2", "n3", ttl=LONG)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        refs = [actor_ref(f"counter-{name}.{number}") for name in ("n1", "n2") for number in range(5)]
        assert await asyncio.gather(*(ref.add(1) for ref in refs)) == [1] * len(refs)
        n1.signal(signal.SIGKILL)
        n2.signal(signal.SIGKILL)
        assert await asyncio.gather(*(ref.options(timeout=60).add(1) for ref in refs)) == [2] * len(refs)


async def _names(members: Callable[[], Awaitable[list[Member]]], wanted: set[str]) -> bool:
    return {member.name for member in await members()} == wanted


# -- what is made of a hint -----------------------------------------------------------------------------------------


class Rumours:
    """A witness that finds what it is told to find: the last of several things again and again."""

    def __init__(self, *own: Finding, others: Mapping[str, Finding | Exception | None]) -> None:
        self.own, self.others = list(own), others
        self.revoked: list[str] = []
        self.etcd_is_away_for = 0
        self.probed = 0

    def members(self) -> Mapping[str, Member]:
        names = ("me", "suspect", *self.others)
        return {
            name: Member(silo=name, name=name, endpoint="h:1", types={}, lease=number + 1)
            for number, name in enumerate(names)
        }

    def silo(self) -> str:
        return "me"

    async def probe(self, suspect: Member) -> Finding:
        self.probed += 1
        return self.own[min(self.probed, len(self.own)) - 1]

    async def ask(self, other: str, suspect: str) -> Finding:
        found = self.others[other]
        if found is None:  # frozen
            await asyncio.Event().wait()
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found

    async def revoke(self, suspect: Member) -> None:
        if self.etcd_is_away_for:
            self.etcd_is_away_for -= 1
            raise ConnectionError("etcd does not answer")
        self.revoked.append(suspect.silo)


async def look_into(witness: Rumours) -> None:
    """Hear a rumour, and see what comes of it."""
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.ensure_future(work))

    suspicion = Suspicion(witness, spawn=spawn)
    suspicion.suspect("suspect")
    suspicion.suspect("suspect")  # one look is enough
    suspicion.suspect("nobody")
    assert len(tasks) == 1
    await asyncio.gather(*tasks)
    assert not suspicion._under, "the next hint would not be looked into"


@pytest.mark.parametrize(
    ("own", "others", "dead"),
    [
        (Finding.DEAD, {}, True),
        (Finding.DEAD, {"a": Finding.DEAD}, True),
        (Finding.DEAD, {"a": Finding.ALIVE}, False),
        (Finding.DEAD, {"a": Finding.UNKNOWN}, False),
        (Finding.DEAD, {"a": ConnectionError("it died, too"), "b": Finding.ALIVE}, False),
        (Finding.DEAD, {"a": ConnectionError("it died, too")}, True),
        (Finding.ALIVE, {"a": Finding.DEAD}, False),
        (Finding.UNKNOWN, {"a": Finding.DEAD}, False),
    ],
)
async def test_a_lease_is_ended_on_two_findings_only(
    own: Finding, others: Mapping[str, Finding | Exception], dead: bool
) -> None:
    witness = Rumours(own, others=others)
    await look_into(witness)
    assert witness.revoked == (["suspect"] if dead else [])
    unclear = Finding.UNKNOWN in (own, *others.values())
    assert (witness.probed > 1) == unclear, "what is clear needs one look, and what is not is looked at again"


async def test_a_process_that_was_still_dying_is_looked_at_again() -> None:
    witness = Rumours(Finding.UNKNOWN, Finding.DEAD, others={"a": Finding.DEAD})
    await look_into(witness)
    assert witness.revoked == ["suspect"]
    assert witness.probed == 2


async def test_a_frozen_witness_is_not_what_everybody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.suspicion._SECOND_OPINION", LONG)
    witness = Rumours(Finding.DEAD, others={"frozen": None, "frozen too": None, "a": Finding.DEAD})
    await look_into(witness)
    assert witness.revoked == ["suspect"]


async def test_an_etcd_that_was_away_for_a_moment_is_asked_again() -> None:
    witness = Rumours(Finding.DEAD, others={"a": Finding.DEAD})
    witness.etcd_is_away_for = 2
    await look_into(witness)
    assert witness.revoked == ["suspect"]
