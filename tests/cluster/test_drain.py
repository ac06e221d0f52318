"""``silo drain``: a silo goes in good order because somebody who may be elsewhere wants it to."""

import asyncio
import json

from actors import actor_ref
from cluster import connect
from tests.cluster.processes import Cluster, Processes


async def test_a_silo_drains_by_its_name_and_no_call_fails(cluster: Cluster, processes: Processes) -> None:
    n1, n2 = await cluster.start("n1", "n2")
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        refs = [actor_ref(f"counter-n1.{number}") for number in range(10)]
        assert await asyncio.gather(*(ref.add(1) for ref in refs)) == [1] * 10
        ended = asyncio.Event()

        async def count_up(number: int) -> int:
            counted = 1
            while not ended.is_set() or counted < 5:
                counted = await refs[number].options(timeout=30).add(1)
            return counted

        counting = [asyncio.create_task(count_up(number)) for number in range(10)]
        options = ("--etcd", cluster.etcd, "--cluster", cluster.name)
        drained = await processes.run("drain", "n1", "--json", *options)
        assert (drained.status, json.loads(drained.out)) == (0, {"silo": "n1", "gone": True}), drained.err
        assert (await n1.ended()).status == 0
        ended.set()
        counts = await asyncio.gather(*counting)
        assert await asyncio.gather(*(ref.value() for ref in refs)) == counts
        assert [member.name for member in await client.members()] == ["n2"]

        unknown = await processes.run("drain", "n1", *options)
        assert unknown.status != 0
        assert "no silo 'n1' (silos: n2)" in unknown.err
    assert n2.running


async def test_a_silo_that_is_alone_drains_and_ends(processes: Processes) -> None:
    silo = processes.silo("alone")
    grpc = (await silo.ready())[0]["grpc"]
    drained = await processes.run("drain", "alone", "--connect", grpc)
    assert (drained.status, drained.out) == (0, "alone has moved its actors and is gone\n"), drained.err
    assert (await silo.ended()).status == 0
