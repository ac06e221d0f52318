"""Three members, of which one dies, freezes, or loses the others."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cluster.etcd import EtcdClient, EtcdOutcomeUnknown, EtcdServer, EtcdUnavailable, Watch
from tests.cluster.etcd.members import leader_of, three_members
from tests.cluster.etcd.waiting import MonotonicClock, eventually, started, take

CLOCK = MonotonicClock()


@pytest.fixture
async def members(tmp_path: Path) -> AsyncIterator[list[EtcdServer]]:
    async with three_members(tmp_path) as members:
        yield members


def _on(client: EtcdClient, member: EtcdServer) -> None:
    """Make the client talk to that member from now on."""
    while client._connection.current.url != member.endpoint:
        client._connection.leave(client._connection.current)


async def _write(client: EtcdClient, names: list[str]) -> None:
    """Write each name once for certain: look before repeating one whose outcome is unknown."""
    for name in names:
        while not (await client.get(name)).kvs:
            try:
                await client.put(name, b"")
            except EtcdOutcomeUnknown:
                continue


async def _follow(watch: Watch, seen: list[str]) -> None:
    async for batch in watch:
        seen += [event.kv.key for event in batch.events]


async def test_the_leader_is_killed(members: list[EtcdServer], stack: AsyncExitStack) -> None:
    leader = await leader_of(members)
    client = await stack.enter_async_context(EtcdClient([member.endpoint for member in members], timeout=10))
    _on(client, leader)
    lease = await client.grant(3)
    await client.put("/member", b"", lease=lease.id)
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await keep_alive.wait_confirmed()
    watch = await started(await stack.enter_async_context(client.watch("/w/", prefix=True)))
    names = [f"/w/{i:03}" for i in range(60)]
    seen: list[str] = []
    following = asyncio.ensure_future(_follow(watch, seen))
    stack.callback(following.cancel)

    await _write(client, names[:20])
    await leader.kill()
    killed = time.monotonic()
    await _write(client, names[20:])
    outage = time.monotonic() - killed
    await eventually("the watch has everything", lambda: len(seen) >= len(names))
    assert seen == names
    assert outage < 8

    await eventually("the lease is confirmed by another member", lambda: keep_alive.deadline > killed + 2 * lease.ttl)
    assert not keep_alive.lost.is_set()
    assert (await client.get("/member")).kvs[0].create_revision > 0

    await leader.start()
    await _write(client, ["/w/999"])
    await eventually("the watch goes on", lambda: seen[-1] == "/w/999")


async def test_the_member_behind_watch_and_keep_alive_freezes(members: list[EtcdServer], stack: AsyncExitStack) -> None:
    leader = await leader_of(members)
    frozen = next(member for member in members if member is not leader)
    client = await stack.enter_async_context(EtcdClient([member.endpoint for member in members], timeout=5))
    writer = await stack.enter_async_context(EtcdClient([leader.endpoint]))
    _on(client, frozen)
    lease = await client.grant(3)
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await keep_alive.wait_confirmed()
    watch = await started(await stack.enter_async_context(client.watch("/w")))
    assert watch._stream is not None
    assert watch._stream.endpoint.url == frozen.endpoint

    stack.callback(frozen.resume)
    frozen.pause()
    paused = time.monotonic()
    for i in range(5):
        await writer.put("/w", str(i).encode())
    assert [event.kv.value for event in await take(watch, 5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert time.monotonic() - paused < 14  # HTTP/2 keep-alive: 6 s and 3 s
    assert keep_alive.deadline > time.monotonic()
    assert not keep_alive.lost.is_set()


async def test_a_member_that_lost_the_others_is_left(members: list[EtcdServer], stack: AsyncExitStack) -> None:
    """The other two freeze and nobody can write. A write certainly did not happen, or it might have."""
    alone, *others = members
    client = await stack.enter_async_context(EtcdClient([alone.endpoint], timeout=2))
    await client.put("/q", b"before")
    watch = await started(await stack.enter_async_context(client.watch("/q")))
    for other in others:
        stack.callback(other.resume)
        other.pause()

    async def refused_for_certain() -> bool:
        with pytest.raises((EtcdOutcomeUnknown, EtcdUnavailable)) as caught:
            await client.put("/q", b"lost")
        return caught.type is EtcdUnavailable and "no leader" in str(caught.value)

    await eventually("the member knows that it is alone", refused_for_certain, within=30)
    stale = await client.get("/q", serializable=True)
    assert [kv.value for kv in stale.kvs] == [b"before"]
    with pytest.raises(EtcdUnavailable):
        await client.get("/q")

    for other in others:
        other.resume()

    async def written() -> bool:
        try:
            return bool(await client.put("/q", b"after"))
        except (EtcdUnavailable, EtcdOutcomeUnknown):
            return False

    await eventually("writes go through again", written, within=30)
    async with asyncio.timeout(30):
        while b"after" not in [event.kv.value for event in (await anext(watch)).events]:
            pass
