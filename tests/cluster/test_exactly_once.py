"""What was asked, sent or accepted takes effect exactly once, whichever silo is killed."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors import actor_ref
from actors.errors import IdempotencyKeyReused
from actors.records import OUTBOX
from actors.ref import ActorRef
from cluster import Client, connect
from tests.cluster.durable_actors import Entries, noted
from tests.cluster.processes import Cluster, Process
from tests.cluster.waiting import eventually

APP = "tests.cluster.durable_actors"


async def endpoint(silo: Process) -> str:
    found: str = (await silo.ready())[0]["grpc"]
    return found


async def read(ref: ActorRef) -> Entries:
    found: Entries = await ref.options(timeout=20).read()
    return found


async def entries(ref: ActorRef) -> list[str]:
    return (await read(ref)).entries


async def has(ref: ActorRef, count: int) -> None:
    """Return when the register has that many entries."""

    async def enough() -> bool:
        return len(await entries(ref)) >= count

    await eventually(f"{ref.address} has {count} entries", enough, within=30)


class Writers:
    """One task per register, which enters numbers: the even ones are asked for, the odd ones sent."""

    def __init__(self, refs: list[ActorRef]) -> None:
        self.refs = refs
        self.done = {ref.address: 0 for ref in refs}
        self._enough = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write(ref)) for ref in refs]

    async def _write(self, ref: ActorRef) -> None:
        patient = ref.options(timeout=30)
        while not self._enough.is_set():
            number = self.done[ref.address]
            if number % 2:
                await patient.enter.send(str(number))
            else:
                assert await patient.enter(str(number)) == number + 1, "an entry was lost or doubled"
            self.done[ref.address] += 1

    async def go_on(self, count: int) -> None:
        """Return when each has made so many entries more."""
        goal = {address: done + count for address, done in self.done.items()}
        await eventually(
            f"{count} more entries each",
            lambda: any(t.done() for t in self._tasks) or all(self.done[a] >= goal[a] for a in goal),
            within=30,
        )
        for task in self._tasks:
            if task.done():
                await task

    async def stop(self) -> None:
        self._enough.set()
        await asyncio.gather(*self._tasks)


async def check(cluster: Cluster, writers: Writers, *, kills: int) -> None:
    """Every entry is in the state once and in order, and at most once in the file."""
    for ref in writers.refs:
        count = writers.done[ref.address]
        await has(ref, count)
        found = await read(ref)
        assert found.entries == [str(number) for number in range(count)], ref.address
        written = noted(cluster.folder, f"{ref.key}.register")
        assert len(written) == len(set(written)), f"{ref.address}: a body ran twice"
        assert set(written) | set(found.interrupted) == set(found.entries), f"{ref.address}: a body did not run"
        assert len(found.interrupted) <= kills, ref.address


async def test_asks_and_sends_go_on_when_the_gateway_and_then_the_owner_is_killed(cluster: Cluster) -> None:
    n1, n2, n3 = await cluster.start("n1", "n2", "n3", app=APP)
    async with connect([await endpoint(n2), await endpoint(n3)], cluster=cluster.name) as client:
        writers = Writers([actor_ref(f"register-n1.{number}") for number in range(5)])
        await writers.go_on(10)
        assert gateway(client).startswith("n2.")
        await n2.kill()
        await writers.go_on(10)
        assert gateway(client).startswith("n3.")
        assert [await ref.where() for ref in writers.refs] == ["n1"] * 5
        await n1.kill()
        await writers.go_on(10)
        await writers.stop()
        assert [await ref.where() for ref in writers.refs] == ["n3"] * 5
        await check(cluster, writers, kills=1)


async def test_asks_and_sends_go_on_when_their_gateway_is_the_owner_and_is_killed(cluster: Cluster) -> None:
    n1, n2 = await cluster.start("n1", "n2", app=APP)
    async with connect([await endpoint(n1), await endpoint(n2)], cluster=cluster.name) as client:
        writers = Writers([actor_ref(f"register-n1.{number}") for number in range(5)])
        await writers.go_on(10)
        assert gateway(client).startswith("n1.")
        await n1.kill()
        await writers.go_on(10)
        await writers.stop()
        await check(cluster, writers, kills=1)


def gateway(client: Client) -> str:
    """The silo that the client is connected to."""
    assert client._transport is not None
    return client._transport.links[0].peer


async def test_what_was_accepted_survives_the_end_of_everything(cluster: Cluster) -> None:
    """A turn is under way and 50 messages wait behind it when every silo dies; nobody asks for the actor again."""
    silos = await cluster.start("n1", "n2", app=APP)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        ref = actor_ref("register-n1.a")
        await ref.enter_slowly.send("slow")
        await eventually("the turn runs", ref.is_slow)
        for number in range(50):
            await ref.enter.send(str(number))
    for silo in silos:
        await silo.kill()
    assert not noted(cluster.folder, "n1.a.register")

    await cluster.start("n1", "n2", app=APP)

    async with connect(etcd=cluster.etcd, cluster=cluster.name) as client:
        await eventually("it is activated by the silos alone", lambda: _is_active(client, ref), within=20)
        await eventually("the turn runs", ref.is_slow)
        await ref.finish()
        await has(ref, 51)
        assert await entries(ref) == ["slow", *map(str, range(50))]
    assert noted(cluster.folder, "n1.a.register") == [*map(str, range(50))]


async def _is_active(client: Client, ref: ActorRef) -> bool:
    return ref.address in await client.placements()


# -- idempotency keys --------------------------------------------------------------------------------------------------


async def test_a_key_gives_the_same_answer_after_a_kill(cluster: Cluster) -> None:
    n1, _ = await cluster.start("n1", "n2", app=APP)
    ref = actor_ref("register-n1.a")
    key = ref.options(idempotency_key="order-1", timeout=20)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        assert await key.enter("first") == 1
        await ref.options(idempotency_key="order-2").enter.send("second")
        assert await ref.enter("third") == 3

    await n1.kill()

    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        assert await key.enter("first") == 1, "it ran again"
        await ref.options(idempotency_key="order-2", timeout=20).enter.send("second")
        with pytest.raises(IdempotencyKeyReused, match="order-1"):
            await key.enter("another")
        with pytest.raises(IdempotencyKeyReused, match="order-1"):
            await key.enter_slowly("first")
        assert await ref.where() == "n2"
        assert await ref.enter("fourth") == 4
        assert await entries(ref) == ["first", "second", "third", "fourth"]
    assert noted(cluster.folder, "n1.a.register") == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize("again", ["ask", "send"])
async def test_a_key_whose_turn_the_kill_cut_short_runs_once(cluster: Cluster, again: str) -> None:
    """The first caller waits through the kill; a second one comes with the same key, and both get one answer."""
    n1, _ = await cluster.start("n1", "n2", app=APP)
    ref = actor_ref("register-n1.a")
    key = ref.options(idempotency_key="order-1", timeout=30)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        first = asyncio.create_task(key.enter_slowly("one"))
        await eventually("the turn runs", ref.is_slow)
        await n1.kill()
        second: Callable[[str], Coroutine[Any, Any, object]] = (
            key.enter_slowly if again == "ask" else key.enter_slowly.send
        )
        repeated = asyncio.create_task(second("one"))
        await eventually("the turn runs on n2", ref.options(timeout=20).is_slow)
        assert await ref.where() == "n2"
        await ref.finish()
        assert await first == 1
        assert await repeated == 1 or again == "send"
        assert await entries(ref) == ["one"]
        assert await key.enter_slowly("one") == 1


# -- the outbox --------------------------------------------------------------------------------------------------------


async def test_what_turns_send_arrives_once_and_in_order_while_both_ends_are_killed_in_turn(cluster: Cluster) -> None:
    """Ten turns send 20 messages each to an actor on another silo; receiver, sender and receiver are killed."""
    silos = dict(zip(("n1", "n2", "n3"), await cluster.start("n1", "n2", "n3", app=APP), strict=True))
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        sender, receiver = actor_ref("courier-n1.a"), actor_ref("register-n2.a")
        assert (await sender.where(), await receiver.where()) == ("n1", "n2")
        patient, turns = sender.options(timeout=30), 0
        for turns, end in enumerate((receiver, sender, receiver), 1):
            assert await patient.carry(receiver, 40 * (turns - 1), 20) == 40 * turns - 20
            await has(receiver, 40 * (turns - 1) + 1)  # some have arrived, others are on their way
            name = await end.options(timeout=20).where()
            await silos[name].kill()
            assert await patient.carry(receiver, 40 * turns - 20, 20) == 40 * turns
            (silos[name],) = await cluster.start(name, app=APP)
        for first in range(40 * turns, 200, 20):
            await patient.carry(receiver, first, 20)
        await has(receiver, 200)
        assert await entries(receiver) == [*map(str, range(200))]
        await eventually("the store keeps nothing of it", lambda: not outbox(cluster, sender))
    written = noted(cluster.folder, "n2.a.register")
    assert len(written) == len(set(written))


async def test_what_has_arrived_is_told_from_what_the_senders_next_owner_sends_again(cluster: Cluster) -> None:
    """The sender's silo is stopped when its messages are out and dies before it hears that they were accepted."""
    n1, n2, n3 = await cluster.start("n1", "n2", "n3", app=APP)
    async with connect(await endpoint(n3), cluster=cluster.name):
        sender, receiver = actor_ref("courier-n1.a"), actor_ref("register-n2.a")
        await sender.carry(receiver, 0, 1)  # from now on the way is known
        await has(receiver, 1)
        await eventually("that is over", lambda: not outbox(cluster, sender))

        n2.signal(signal.SIGSTOP)
        assert await sender.carry(receiver, 1, 20) == 21
        assert await sender.where() == "n1"  # its loop has gone on since: what it sends is in n2's socket
        n1.signal(signal.SIGSTOP)
        n2.signal(signal.SIGCONT)
        await eventually("all have run", lambda: len(noted(cluster.folder, "n2.a.register")) == 21)
        await has(receiver, 21)
        await n1.kill()
        assert len(outbox(cluster, sender)) == 20, "the sender was not stopped in time"

        await eventually("the next owner has done with them", lambda: not outbox(cluster, sender), within=20)
        await sender.options(timeout=20).carry(receiver, 21, 1)
        await has(receiver, 22)
        assert await entries(receiver) == [*map(str, range(22))]
    assert len(noted(cluster.folder, "n2.a.register")) == 22


def outbox(cluster: Cluster, ref: ActorRef) -> dict[bytes, bytes]:
    """What the store has of an actor's messages that are on their way."""
    return cluster.rows(ref.address, OUTBOX)
