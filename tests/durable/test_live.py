"""A silo is killed at exact points while a running turn is interrupted, rolled back, steered or waits for a signal."""

import asyncio
import itertools
from contextlib import aclosing
from typing import Any

import pytest

from actors import actor_ref
from actors.ref import ActorRef
from tests.cluster.waiting import eventually
from tests.durable.cluster import Cluster

_numbers = itertools.count()


async def waiting(ref: ActorRef) -> None:
    """Return when a turn of the actor waits for a signal."""
    async with aclosing(ref.channel("$turns").subscribe()) as events:  # type: ignore[type-var]
        async for event in events:
            if event.data["event"] == "waiting":
                return


async def shown(ref: ActorRef, last: str) -> list[Any]:
    """What a reader of the output has when the last entry has come, discarding what it is told to."""
    kept: list[tuple[int, Any]] = []
    async with aclosing(ref.channel("output").subscribe()) as events:  # type: ignore[type-var]
        async for event in events:
            if event.kind == "reset":
                kept = [entry for entry in kept if entry[0] < event.data]
            else:
                kept.append((event.offset, event.data))
            if event.data == last:
                break
    return [data for _, data in kept]


@pytest.mark.parametrize("point", ["before interrupt", "after interrupt", "before turn", "after turn"])
@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_a_message_that_stops_the_running_turn(cluster: Cluster, policy: Any, point: str) -> None:
    address = f"talker-n1.{next(_numbers)}"
    async with cluster.attended(), cluster.client("n2", "n3"), asyncio.timeout(40):
        ref = actor_ref(address)
        await ref.send("wait 1")
        await waiting(ref)
        cluster.plan_kill(address, point)
        await ref.options(on_busy=policy).send("next")
        await eventually("it has run", lambda: _are(ref, ["next"]))
        assert cluster.killed(address)
        expected = ["wait 1.", "wait 1!"] if policy == "interrupt" else []
        assert await shown(ref, "next!") == [*expected, "next.", "next!"]


@pytest.mark.parametrize(
    "point", ["after signal", "before result wait_for go", "after result wait_for go", "before read", "after read",
              "before turn", "after turn"],
)  # fmt: skip
async def test_a_signal_and_a_message_for_the_turn_that_waits(cluster: Cluster, point: str) -> None:
    address = f"talker-n1.{next(_numbers)}"
    async with cluster.attended(), cluster.client("n2", "n3"), asyncio.timeout(40):
        ref = actor_ref(address)
        await ref.send("wait 1")
        await waiting(ref)
        await ref.options(on_busy="steer").send("aside")
        cluster.plan_kill(address, point)
        await ref.signal("go", "yes")
        await eventually("it is over", lambda: _are(ref, ["wait 1", "wait 1: yes", "wait 1 heard aside"]))
        assert cluster.killed(address)
        await ref.send("end")
        assert await shown(ref, "end!") == ["wait 1.", "wait 1!", "end.", "end!"]


async def test_a_turn_that_waits_when_its_silo_dies_waits_on(cluster: Cluster) -> None:
    address = f"talker-n1.{next(_numbers)}"
    async with cluster.attended(), cluster.client("n2", "n3"), asyncio.timeout(40):
        ref = actor_ref(address)
        cluster.plan_kill(address, "after wait wait_for go")
        await ref.send("wait 1")
        await waiting(ref)
        assert cluster.killed(address)
        await ref.signal("go", "yes")
        await eventually("it is over", lambda: _are(ref, ["wait 1", "wait 1: yes"]))


async def _are(ref: ActorRef, lines: list[str]) -> bool:
    return await ref.lines() == lines  # type: ignore[no-any-return]
