"""Silos that go in good order, because somebody wants them to, and silos that come: nobody notices."""

import asyncio
import json
import signal

from actors import actor_ref
from cluster import connect
from tests.cluster.house import House
from tests.cluster.processes import Cluster, Processes
from tests.cluster.travellers import Traveller
from tests.cluster.waiting import eventually


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
    assert (drained.status, drained.out) == (0, "alone has let its actors go and is gone\n"), drained.err
    assert (await silo.ended()).status == 0


async def test_a_rolling_restart_fails_no_call_and_loses_no_memory(cluster: Cluster) -> None:
    app = "tests.cluster.travellers"
    silos = dict(zip(("n1", "n2", "n3"), await cluster.start("n1", "n2", "n3", app=app), strict=True))
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        refs = [actor_ref(f"traveller-{number}") for number in range(60)]
        taken = [await ref.walk() for ref in refs]
        ended = asyncio.Event()

        async def walk(number: int) -> None:
            while not ended.is_set():
                step = await refs[number].options(timeout=60).walk()
                assert step == taken[number] + 1, f"{refs[number].address} has forgotten what it knew"
                taken[number] = step

        async with asyncio.TaskGroup() as walking:
            for number in range(30):  # the others have nobody who calls them meanwhile
                walking.create_task(walk(number))
            for name, silo in silos.items():
                silo.signal(signal.SIGTERM)
                assert (await silo.ended()).status == 0
                await cluster.start(name, app=app)
            ended.set()
        assert await asyncio.gather(*(ref.walk() for ref in refs)) == [step + 1 for step in taken]
        homes = await asyncio.gather(*(ref.lived_in() for ref in refs))
        assert all(len(set(lived)) == len(lived) >= 2 for lived in homes), homes


async def test_a_silo_that_joins_takes_over_actors_with_their_memory(house: House) -> None:
    (first,) = await house.start("n1", actors=[Traveller])
    await house.client()
    refs = [actor_ref(f"traveller-{number}") for number in range(120)]
    assert await asyncio.gather(*(ref.walk() for ref in refs)) == [1] * 120
    (second,) = await house.start("n2", actors=[Traveller])
    await eventually("some have moved", lambda: second.runtime.migration.arrived >= 20, within=30)
    assert await asyncio.gather(*(ref.walk() for ref in refs)) == [2] * 120
    assert len(first.runtime.activations) + len(second.runtime.activations) == 120
