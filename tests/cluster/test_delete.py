"""``delete``: nothing of the actor is left in the store's file, and nothing of it comes back."""

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from actors import actor_ref
from actors.channel import Event
from actors.records import CHANNEL, FLOOR, MESSAGE, Done, message_rows
from actors.ref import ActorRef
from cluster import connect
from tests.cluster.durable_actors import Entries
from tests.cluster.processes import Cluster
from tests.cluster.waiting import eventually

APP = "tests.cluster.durable_actors"


async def fill(ref: ActorRef) -> int:
    """Give the actor something of every kind; return how many entries its longest channel has."""
    await ref.options(idempotency_key="k").enter("first")
    await ref.enter.send("second")
    await ref.publish_all("output", [{"item": number} for number in range(5)])
    await ref.publish_all("audit", ["a", "b", "c"])
    await ref.channel("audit").publish("d")
    await ref.remind_me("never", 86_400.0, 60.0)
    await actor_ref(f"courier-{ref.key}").carry(ref, 0, 3)  # leaves the number of the sender's last message
    await eventually("all is there", lambda: _has(ref, ["first", "second", "0", "1", "2"]))
    return 5


async def _has(ref: ActorRef, entries: list[str]) -> bool:
    found: Entries = await ref.options(timeout=20).read()
    return found.entries == entries


def kinds(cluster: Cluster, address: str) -> set[int]:
    return {key[0] for key in cluster.rows(address)}


async def test_nothing_is_left_but_the_epoch_and_where_the_channels_ended(cluster: Cluster) -> None:
    await cluster.start("n1", app=APP)
    ref = actor_ref("register-n1.a")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        await fill(ref)
        assert cluster.state(ref.address)
        epoch, wake = cluster.actor(ref.address)
        assert wake is not None
        before = kinds(cluster, ref.address)
        assert {0x04, 0x06, 0x81, 0x82, 0x83, 0x85} <= before, f"the test is to leave rows of all kinds: {before}"

        ends = [msgspec.msgpack.decode(head)[0] for head in cluster.rows(ref.address, CHANNEL).values()]

        await ref.delete()

        assert cluster.state(ref.address) is None
        assert cluster.actor(ref.address) == (epoch, None)
        left = cluster.rows(ref.address)
        assert msgspec.msgpack.decode(left.pop(FLOOR)) == max(ends) + 1  # behind the event that says "closed"
        # A repeat of the deletion, should its answer be lost, must not delete what has come after it.
        for key, value in left.items():
            assert key.startswith(MESSAGE)
            assert isinstance(message_rows.decode(value), Done)
        assert len(left) <= 1

        assert await ref.enter_unseen("anew") == 1
        assert await ref.enter_unseen("again") == 2  # tells, like the call before, that the answers before it are here
        assert kinds(cluster, ref.address) <= {FLOOR[0], MESSAGE[0], 0x02}
        assert len(cluster.rows(ref.address, MESSAGE)) <= 1, "what was acknowledged is kept"


async def test_an_address_of_which_nobody_was_told_leaves_no_record(cluster: Cluster) -> None:
    await cluster.start("n1", app=APP)
    ref = actor_ref("register-n1.a")
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        await ref.enter_unseen("first")
        await ref.delete()
        assert cluster.state(ref.address) is None
        assert not {key: value for key, value in cluster.rows(ref.address).items() if not key.startswith(MESSAGE)}


@pytest.mark.parametrize("killed", [False, True])
async def test_a_new_actor_at_the_address_has_nothing_of_the_old(cluster: Cluster, killed: bool) -> None:
    """Not in the activation that goes on, and not in the one that another silo makes after a kill."""
    n1, _ = await cluster.start("n1", "n2", app=APP)
    ref = actor_ref("register-n1.a").options(timeout=20)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        length = await fill(ref)
        await ref.delete()
        floor = msgspec.msgpack.decode(cluster.rows(ref.address)[FLOOR])
        assert floor > length
        if killed:
            await n1.kill()

        assert (await ref.read()) == Entries()
        assert await ref.options(idempotency_key="k").enter("another") == 1, "the key was forgotten"
        await ref.publish_all("output", ["new"])
        await ref.publish_all("other", ["newer"])
        (event,) = await first(ref, "output", 1)
        assert event[:3] == (floor, "new", "item")
        (event,) = await first(ref, "other", 1)
        assert event[:3] == (floor, "newer", "item")
        for cursor in (2, length - 1):  # of readers who were away
            seen: list[Event] = []
            async with asyncio.timeout(20):
                await all_of(ref, "output", seen, after=cursor)
            assert seen == [Event(floor - 1, None, "closed")]
        (event,) = await first(ref, "output", 1, after=floor - 1)
        assert event[:3] == (floor, "new", "item")
        # The couriers' numbers go on, and are not taken for repeats.
        await actor_ref("courier-n1.a").options(timeout=20).carry(ref, 3, 1)
        await eventually("the next message arrives", lambda: _has(ref, ["another", "3"]))
        _, wake = cluster.actor(ref.address)
        assert wake is None, "a reminder was left"


async def first(ref: ActorRef, channel: str, count: int, *, after: int | None = None) -> list[Event]:
    """The first events behind a cursor."""
    found: list[Event] = []
    async with asyncio.timeout(20):
        async for event in ref.channel(channel).subscribe(after):
            found.append(event)
            if len(found) == count:
                break
    return found


async def all_of(ref: ActorRef, channel: str, seen: list[Event], *, after: int | None = None) -> None:
    async for event in ref.channel(channel).subscribe(after):
        seen.append(event)  # noqa: PERF401  # the test looks at it meanwhile


async def test_readers_come_to_the_end(cluster: Cluster) -> None:
    """One that has read all, one that waits in an empty channel, and one on another silo's link."""
    n1, n2 = await cluster.start("n1", "n2", app=APP)
    ref = actor_ref("register-n1.a").options(timeout=20)
    async with AsyncExitStack() as stack:
        full: list[Event] = []
        empty: list[Event] = []
        far: list[Event] = []
        readers = []
        for silo, channel, seen, after in (
            (n1, "output", full, None),
            (n1, "empty", empty, None),
            (n2, "output", far, 2),
        ):
            endpoint = (await silo.ready())[0]["grpc"]
            await stack.enter_async_context(connect(endpoint, cluster=cluster.name))
            readers.append(asyncio.create_task(all_of(ref, channel, seen, after=after)))
            await asyncio.sleep(0)  # a task takes the client of the moment in which it was made
        await ref.publish_all("output", [*range(5)])
        await eventually("all have read", lambda: len(full) == 5 and len(far) == 2)

        await ref.delete()

        async with asyncio.timeout(20):
            await asyncio.gather(*readers)
    assert [event[:3] for event in full] == [*((n, n, "item") for n in range(5)), (5, None, "closed")]
    assert [event[:3] for event in far] == [*((n, n, "item") for n in (3, 4)), (5, None, "closed")]
    assert empty == [Event(5, None, "closed")]


async def test_what_waits_behind_a_deletion_is_for_the_new_actor(cluster: Cluster) -> None:
    """It was accepted, so it is not lost: also when the silo dies right after."""
    n1, _ = await cluster.start("n1", "n2", app=APP)
    ref = actor_ref("register-n1.a").options(timeout=30)
    async with connect(etcd=cluster.etcd, cluster=cluster.name):
        slow = asyncio.create_task(ref.enter_slowly("old"))
        await eventually("the turn runs", ref.is_slow)
        deleted = asyncio.create_task(ref.delete())
        await asyncio.sleep(0)  # it is on its way, before the others
        for number in range(10):
            await ref.enter.send(str(number))
        await ref.finish()
        assert await slow == 1
        await deleted
        await n1.kill()
        await eventually("they run", lambda: _has(ref, [*map(str, range(10))]), within=20)
