"""Dead processes are noticed long before their leases end; frozen ones, and rumours, cost nobody a lease."""

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest

from actors import actor_ref
from cluster import connect
from cluster.member import Member
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


# -- what is made of a hint -----------------------------------------------------------------------------------------


class Rumours:
    """A witness that finds what it is told to find."""

    def __init__(self, own: Finding, others: Mapping[str, Finding | Exception]) -> None:
        self.own, self.others = own, others
        self.revoked: list[str] = []
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
        return self.own

    async def ask(self, other: str, suspect: str) -> Finding:
        found = self.others[other]
        if isinstance(found, Exception):
            raise found
        return found

    async def revoke(self, suspect: Member) -> None:
        self.revoked.append(suspect.silo)


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
    witness = Rumours(own, others)
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.ensure_future(work))

    suspicion = Suspicion(witness, spawn=spawn)
    suspicion.suspect("suspect")
    suspicion.suspect("suspect")  # one look is enough
    suspicion.suspect("nobody")
    await asyncio.gather(*tasks)
    assert witness.revoked == (["suspect"] if dead else [])
    assert witness.probed == 1
    await eventually("the next hint is looked into again", lambda: not suspicion._under)
