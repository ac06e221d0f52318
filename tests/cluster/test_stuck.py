"""An actor that blocks its silo is named; below the TTL it harms nobody, above it others take over from a zombie."""

import asyncio
import json
from pathlib import Path

import pytest

from actors import TurnInterrupted, actor_ref
from cluster import Client, connect
from tests.cluster.processes import TTL, Cluster, Process, Processes
from tests.cluster.waiting import eventually

APP = "tests.cluster.stuck_actors"


@pytest.mark.parametrize("how", ["sleep", "compute"])
async def test_a_loop_that_is_blocked_for_less_than_the_ttl_keeps_its_membership_and_memory(
    how: str, cluster: Cluster
) -> None:
    n1, _ = await cluster.start("n1", "n2", app=APP)
    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        mule, other = actor_ref("mule-n1.a"), actor_ref("mule-n1.b")
        assert (await mule.add(1), await other.add(2)) == (1, 2)
        before = await _silos(client)
        epochs = [cluster.actor(ref.address)[0] for ref in (mule, other)]

        assert await mule.block_for(how, 0.9 * TTL) == 101

        assert await mule.recall() == (1, "n1")
        assert await other.recall() == (2, "n1")
        assert (await mule.add(1), await other.add(1)) == (102, 3)
        assert await _silos(client) == before
        assert [cluster.actor(ref.address)[0] for ref in (mule, other)] == epochs
    _named(n1, "mule-n1.a.block_for", f"{how}_until", "has blocked the event loop for 1 s")
    assert "no longer a member" not in n1.err


@pytest.mark.parametrize("then", ["commit", "step", "ask", "stream"])
async def test_who_blocks_for_longer_is_replaced_and_takes_no_effect_when_it_wakes(
    then: str, cluster: Cluster, tmp_path: Path
) -> None:
    """The others answer for its actors while it is still blocked."""
    n1, n2 = await cluster.start("n1", "n2", app=APP)
    async with connect(_grpc(n2), cluster=cluster.name) as client:
        mule, other, elsewhere = actor_ref("mule-n1.a"), actor_ref("mule-n1.b"), actor_ref("mule-n2.c")
        assert await mule.add(1) == await other.add(1) == await elsewhere.add(1) == 1
        await mule.greet()  # so that nothing has to be looked up when it wakes
        before = await _silos(client)
        how = "compute" if then == "step" else "sleep"
        running = asyncio.create_task(mule.options(timeout=60).block_on("n1", how, then))
        await eventually("the loop of n1 is blocked", (tmp_path / "began").exists)

        waiting = asyncio.create_task(elsewhere.wait())
        await elsewhere.interrupt("enough")
        with pytest.raises(TurnInterrupted, match="enough"):
            await waiting
        assert await other.options(timeout=30).add(1) == 2
        assert await other.recall() == (1, "n2"), "what it only remembered went with n1"
        assert await running == 101, "the turn runs again on n2"
        assert not (tmp_path / "woke").exists()

        (tmp_path / "let go").touch()
        await n1.said("has rejoined as n1.")
        assert (tmp_path / "woke").exists()
        assert await mule.add(1) == 102, "the zombie took effect"
        assert await mule.recall() == (1, "n2"), "the owner is who took over"
        assert (tmp_path / "notes").exists() == (then != "commit")
        assert then == "commit" or (tmp_path / "notes").read_text() == "n2\n", "the zombie had an effect elsewhere"
        await _is_new(client, "n1", before)
        assert await actor_ref("mule-n1.d").add(1) == 1
        assert await actor_ref("mule-n1.d").recall() == (1, "n1")
    _named(n1, "mule-n1.a.block_on", f"{how}_until", "has blocked the event loop for 1 s")
    assert "The lease is not renewed while it stands still" in n1.err
    assert "is no longer a member" in n1.err


async def test_code_that_holds_the_interpreter_s_lock_is_named_afterwards_and_leaves_no_zombie(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Nothing of n1 runs meanwhile, also not what renews its lease."""
    n1, n2 = await cluster.start("n1", "n2", app=APP)
    async with connect(_grpc(n2), cluster=cluster.name) as client:
        mule = actor_ref("mule-n1.a")
        assert await mule.add(1) == 1
        await mule.greet()
        before = await _silos(client)
        assert await mule.options(timeout=60).block_on("n1", str(3 * TTL), "ask") == 101
        await n1.said("has rejoined as n1.")
        assert (tmp_path / "notes").read_text() == "n2\n", "the zombie had an effect elsewhere"
        assert await mule.add(1) == 102
        assert await mule.recall() == (1, "n2")
        await _is_new(client, "n1", before)
    _named(n1, "mule-n1.a.block_on", "hold_the_interpreter")


async def test_a_turn_that_blocks_hears_of_its_interrupt_when_it_lets_go(cluster: Cluster, tmp_path: Path) -> None:
    n1, n2 = await cluster.start("n1", "n2", app=APP, ttl=20)
    async with connect(_grpc(n2), cluster=cluster.name):
        mule = actor_ref("mule-n1.a")
        assert await mule.add(1) == 1
        running = asyncio.create_task(mule.block_on("n1", "sleep", "wait"))
        await n1.said("has blocked the event loop")
        interrupt = asyncio.create_task(mule.interrupt("enough"))
        (tmp_path / "let go").touch()
        await interrupt
        with pytest.raises(TurnInterrupted, match="enough"):
            await running
        assert await mule.add(1) == 2
        await n1.said("the event loop runs again")
    _named(n1, "mule-n1.a.block_on", "sleep_until")


async def test_operators_see_the_turn_that_never_ends_and_the_silo_that_does_not_answer(
    cluster: Cluster, processes: Processes, tmp_path: Path
) -> None:
    _, n2 = await cluster.start("n1", "n2", app=APP, ttl=20)
    at = ("--connect", _grpc(n2), "--cluster", cluster.name)
    async with connect(_grpc(n2), cluster=cluster.name) as client:
        mule, idle = actor_ref("mule-n1.a"), actor_ref("mule-n2.idle")
        await idle.add(1)
        calls = [asyncio.create_task(mule.wait()), asyncio.create_task(mule.look_on())]
        await eventually("both run", mule.looks_on)

        shown, listed, nothing, plain = await processes.run_each(
            ("show", mule.address, "--json", *at), ("ps", "--json", *at), ("show", idle.address, *at),
            ("show", mule.address, *at),
        )  # fmt: skip
        assert [ended.err for ended in (shown, listed, nothing, plain)] == [""] * 4
        turn, beside = json.loads(shown.out)["running"]
        assert (turn["handler"], turn["lane"], turn["doing"]) == ("wait", "turn", "runs")
        assert (beside["handler"], beside["lane"], beside["doing"]) == ("look_on", "readonly", "runs")
        assert turn["seconds"] > 0
        assert "in wait\n    await asyncio.Event().wait()" in "".join(turn["stack"])
        assert "in look_on\n" in "".join(beside["stack"])
        silos = {silo["name"]: silo for silo in json.loads(listed.out)}
        assert (silos["n1"]["answers"], silos["n1"]["longest"]["message_id"]) == (True, turn["message_id"])
        assert (silos["n2"]["answers"], silos["n2"]["longest"]) == (True, None)
        assert "running" not in nothing.out
        assert f"running   wait, message {turn['message_id']}: runs for" in plain.out
        assert "            await asyncio.Event().wait()" in plain.out

        await mule.interrupt()
        running = asyncio.create_task(mule.block_on("n1", "sleep", "commit"))
        await eventually("the loop of n1 is blocked", (tmp_path / "began").exists)
        shown, listed = await processes.run_each(("show", mule.address, *at), ("ps", *at))
        assert "running   n1 does not tell" in shown.out
        (line,) = [line for line in listed.out.splitlines() if line.startswith("n1 ")]
        assert "no answer" in line
        (tmp_path / "let go").touch()
        assert await running == 100
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert len(await client.members()) == 2


async def test_a_blocked_silo_is_no_dead_one_for_who_looks_into_it(cluster: Cluster, tmp_path: Path) -> None:
    """It still takes connections, and answers nobody: that is no proof of anything."""
    n1, n2 = await cluster.start("n1", "n2", app=APP, ttl=3600)
    async with connect(_grpc(n2), cluster=cluster.name) as client:
        before = await _silos(client)
        (suspect,) = [silo for silo in before if silo.startswith("n1.")]
        assert await client._query("probe", suspect) == "alive"
        running = asyncio.create_task(actor_ref("mule-n1.a").block_on("n1", "sleep", "commit"))
        await eventually("the loop of n1 is blocked", (tmp_path / "began").exists)
        host, _, port = _grpc(n1).rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        assert await client._query("probe", suspect) == "unknown"
        (tmp_path / "let go").touch()
        assert await running == 100
        assert await _silos(client) == before


def _grpc(silo: Process) -> str:
    address: str = json.loads(silo.out.splitlines()[0])["grpc"]
    return address


async def _silos(client: Client) -> set[str]:
    return {member.silo for member in await client.members()}


async def _is_new(client: Client, name: str, before: set[str]) -> None:
    """Return when the silo is there as another incarnation, and only so."""

    async def rejoined() -> bool:
        members = {member.name: member.silo for member in await client.members()}
        return len(members) == len(before) and members[name] not in before

    await eventually(f"{name} is another incarnation", rejoined)


def _named(silo: Process, handler: str, function: str, *words: str) -> None:
    """Its log has one entry with handler, message and stack of who was to blame."""
    events = [json.loads(line)["event"] for line in silo.err.splitlines() if line.startswith("{")]
    found = [event for event in events if f"{handler} (message " in event and f"in {function}" in event]
    assert any(all(word in event for word in words) for event in found), silo.err
