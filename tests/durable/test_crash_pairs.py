"""Crashes whose effect depends on what a second actor, or a second silo, does in between."""

import asyncio
import signal

from actors import actor_ref
from cluster.store import open_store
from tests.cluster.waiting import eventually
from tests.durable.cluster import Cluster
from tests.durable.faults import hold, notes


async def test_who_asks_again_asks_others_with_answers_that_are_kept(cluster: Cluster) -> None:
    """A turn that changed nothing itself runs again, after those it had asked were told that it has their answers."""
    cluster.plan_kill("relay-n1.a", "before forward", how=signal.SIGSTOP)
    async with cluster.client("n3", "n2") as client, cluster.attended(), asyncio.timeout(30):
        call = asyncio.create_task(actor_ref("relay-n1.a").add("counter-n2.a"))
        await eventually("the reply has come to n3", lambda: cluster.killed("relay-n1.a"))
        async with cluster.client("n1"):
            # The first message from n1 to the counter after the reply says which answers n1 has.
            assert await actor_ref("relay-n1.b").add("counter-n2.a") == 2
            assert await actor_ref("relay-n1.b").add("counter-n2.a") == 3
        del client
        cluster.silos["n3"].signal(signal.SIGKILL)
        assert await call == 1
        async with cluster.client("n2"):
            assert await actor_ref("counter-n2.a").add() == 4


async def test_a_repeat_that_comes_while_its_turn_commits_is_answered(cluster: Cluster) -> None:
    """The gateway is lost while the commit is under way, and the caller asks again through another one."""
    address = "counter-n1.repeat"
    held = hold(cluster.folder, address, "turn")
    async with cluster.attended(), cluster.client("n3", "n2"), asyncio.timeout(20):
        call = asyncio.create_task(actor_ref(address).add())
        await eventually("it is about to commit", lambda: notes(cluster.folder)[f"{address} held"] == 1)
        cluster.silos["n3"].signal(signal.SIGKILL)
        await eventually("the repeat has come", lambda: notes(cluster.folder)[f"{address} repeat"] == 1)
        held.unlink()
        assert await call == 1
        assert await actor_ref(address).add() == 2


async def test_a_silo_that_was_given_up_commits_nothing(cluster: Cluster) -> None:
    """It stands still behind its last look at the clock, and goes on when another silo has finished the turn."""
    address = "worker-n1.zombie"
    cluster.plan_kill(address, "before turn", how=signal.SIGSTOP)
    async with cluster.attended(), cluster.client("n3"), asyncio.timeout(30):
        call = asyncio.create_task(actor_ref(address).work("job", []))
        await eventually("it is about to commit", lambda: cluster.killed(address))
        await cluster.end_leases("n1")
        first = await call
        second = await actor_ref(address).work("second", [])
        await eventually("the reminders have come", lambda: _reminded(address, 2))
        store = await open_store(cluster.store_url)
        stored = await store.state(address)
        cluster.silos["n1"].signal(signal.SIGCONT)
        await eventually("it has lost its lease", lambda: "n1 has rejoined as" in cluster.silos["n1"].err)
        assert await store.state(address) == stored
        await store.close()
        state = await actor_ref(address).read()
        assert (state.jobs, state.results) == (["job", "second"], [first, second])
        assert notes(cluster.folder)[f"{address} bill job"] == 1


async def _reminded(address: str, times: int) -> bool:
    return len((await actor_ref(address).read()).reminded) == times
