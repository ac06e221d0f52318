"""Many readers, one subscription, bounded memory, and nobody who is slow is skipped."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from actors import actor_ref
from actors.errors import ClusterUnavailable
from cluster import Silo
from cluster.gateway import hub as hubs
from cluster.gateway.feed import Entry, Feed
from cluster.gateway.hub import Follower, Hub
from tests.cluster.waiting import eventually
from tests.gateway.actors.sse import events
from tests.gateway.http_client import Gateway


@pytest.fixture
def hub(silo: Silo) -> Hub:
    return Hub(lambda: silo.runtime)


def follow(hub: Hub, after: int | None = None) -> Follower:
    return hub.follow(actor_ref("desk-1").channel(), after)


async def take(follower: Follower, count: int) -> list[Entry]:
    found: list[Entry] = []
    while len(found) < count:
        found += await follower.entries(10)
    return found


def only_feed(hub: Hub) -> Feed:
    (feed,) = hub._feeds.values()
    return feed


async def test_one_subscription_and_one_form_of_each_entry_for_all(silo: Silo, hub: Hub) -> None:
    async with AsyncExitStack() as stack:
        followers = [await stack.enter_async_context(follow(hub)) for _ in range(20)]
        reading = [asyncio.create_task(take(follower, 1)) for follower in followers]
        await eventually("all wait", lambda: bool(hub._feeds) and len(only_feed(hub).followers) == 20)
        assert len(silo.runtime.calls) == 1
        await actor_ref("desk-1").say("a")
        told = [entries[0] for entries in await asyncio.gather(*reading)]
    assert all(entry is told[0] for entry in told)


async def test_the_subscription_lingers_and_ends_behind_the_last_reader(
    silo: Silo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "LINGER", 0.2)
    for _ in range(2):
        async with follow(hub) as follower:
            with pytest.raises(TimeoutError):
                await follower.next(0.01)
        assert len(hub._feeds) == 1
    first = only_feed(hub)
    await eventually("it ends", lambda: not hub._feeds)
    await eventually("nothing is asked of the actor any more", lambda: len(silo.runtime.calls) == 0)
    assert first.over


async def test_a_slow_reader_reads_the_store_and_memory_stays_bounded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "_LEAST", 2_000)
    monkeypatch.setattr(hubs, "_MOST", 2_000)
    async with follow(hub) as slow, follow(hub) as quick:
        for follower in (slow, quick):
            with pytest.raises(TimeoutError):
                await follower.next(0.01)
        for number in range(60):
            await actor_ref("desk-1").say(f"{number} {'x' * 300}")
            if number % 20 == 10:
                await actor_ref("desk-1").say("y" * 5_000)  # more than there is room for
        heard = await take(quick, 63)
        assert only_feed(hub)._size <= 2_000
        read = await take(slow, 63)
        assert [entry.event for entry in read] == [entry.event for entry in heard]
        assert [entry.event.offset for entry in read] == list(range(63))
        await actor_ref("desk-1").say("last")
        assert [event.data for event in await slow.next(10)] == ["last"]


async def test_many_feeds_share_the_memory(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    most = hub._room()
    monkeypatch.setattr(hub, "_feeds", dict.fromkeys(range(10_000)))
    assert hub._room() < most
    assert hub._room() * 10_000 < 200 * 2**20


async def test_readers_that_leave_are_forgotten(silo: Silo, gateway: Gateway) -> None:
    assert silo._http_side is not None
    assert silo._http_side.gateway is not None
    hub = silo._http_side.gateway._hub
    async with events(gateway, "desk-1"), events(gateway, "desk-1"):
        await eventually("both follow", lambda: bool(hub._feeds) and len(only_feed(hub).followers) == 2)
    await eventually("nobody follows", lambda: not only_feed(hub).followers)


async def test_a_hub_that_closes_lets_all_go(hub: Hub) -> None:
    async with follow(hub) as follower:
        reading = asyncio.create_task(follower.next(60))
        await eventually("it waits", lambda: bool(hub._feeds))
        hub.close()
        with pytest.raises(ClusterUnavailable):
            await reading
    with pytest.raises(ClusterUnavailable):
        async with follow(hub):
            pass


async def test_waits_that_are_over_take_no_memory(hub: Hub) -> None:
    async with follow(hub) as woken, follow(hub) as cancelled:
        for follower in (woken, cancelled):
            with pytest.raises(TimeoutError):
                await follower.next(0.01)
        reading = [asyncio.create_task(follower.next(60)) for follower in (woken, cancelled)]
        await eventually("both wait", lambda: sum(map(len, hub.deadlines._calls.values())) == 2)
        reading[1].cancel()
        await actor_ref("desk-1").say("a")
        assert [event.data for event in await reading[0]] == ["a"]
        await eventually("nobody waits", lambda: not any(hub.deadlines._calls.values()))
