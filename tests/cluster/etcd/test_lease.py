import asyncio
import math
import queue
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from cluster.etcd import EtcdClient, EtcdClosed, EtcdServer, KeepAlive, Lease, LeaseNotFound
from cluster.etcd.renewer import Renewer
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.etcd.waiting import MonotonicClock, eventually

CLOCK = MonotonicClock()


async def test_a_lease_takes_its_keys_with_it(client: EtcdClient) -> None:
    lease = await client.grant(60)
    assert lease.ttl == 60
    await client.put("/l/1", b"", lease=lease.id)
    await client.put("/l/2", b"", lease=lease.id)
    status = await client.time_to_live(lease.id)
    assert 50 < status.ttl <= 60
    assert (status.granted_ttl, sorted(status.keys)) == (60, ["/l/1", "/l/2"])

    await client.revoke(lease.id)
    assert (await client.get("/l/", prefix=True)).kvs == []
    with pytest.raises(LeaseNotFound, match="expired, was revoked or never existed"):
        await client.time_to_live(lease.id)
    await client.revoke(lease.id)  # fine: it is gone


async def test_a_grant_whose_answer_was_lost_is_found_again(
    client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await client.grant(60)
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: first.id)
    assert await client.grant(60) == first


async def test_a_ttl_below_a_second_is_refused(client: EtcdClient) -> None:
    with pytest.raises(ValueError, match="at least 1 second"):
        await client.grant(0)


async def test_keep_alive_outlives_the_ttl_and_its_deadline_is_never_late(client: EtcdClient) -> None:
    lease = await client.grant(2)
    await client.put("/alive", b"", lease=lease.id)
    begun = CLOCK.now()
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await keep_alive.wait_confirmed()
    assert begun + lease.ttl <= keep_alive.deadline <= CLOCK.now() + lease.ttl

    end = begun + 1.5 * lease.ttl
    await eventually("the keep-alive outlives the first TTL", lambda: keep_alive.deadline > end + lease.ttl / 2)
    assert CLOCK.now() > begun + lease.ttl
    assert keep_alive.deadline <= CLOCK.now() + lease.ttl
    assert len((await client.get("/alive")).kvs) == 1

    stopping = CLOCK.now()
    await keep_alive.stop()
    assert keep_alive.stopped
    assert CLOCK.now() - stopping < 1
    assert (await client.time_to_live(lease.id)).ttl >= 0
    assert not keep_alive.lost.is_set()


async def test_a_revoked_lease_is_noticed(client: EtcdClient) -> None:
    lease = await client.grant(3)
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await keep_alive.wait_confirmed()
    await client.revoke(lease.id)
    async with asyncio.timeout(10):
        await keep_alive.lost.wait()
    with pytest.raises(LeaseNotFound, match="Grant a new one"):
        await keep_alive.wait_confirmed()


async def test_a_lease_that_never_was_is_lost_at_once(client: EtcdClient) -> None:
    keep_alive = client.keep_alive(Lease(4711, 60), clock=CLOCK)
    with pytest.raises(LeaseNotFound):
        await keep_alive.wait_confirmed()
    assert keep_alive.deadline == -math.inf


async def test_a_stopped_keep_alive_ends_those_who_wait_for_it(server: EtcdServer) -> None:
    await server.kill()
    client = EtcdClient([server.endpoint])
    try:
        keep_alive = client.keep_alive(Lease(1, 3), clock=CLOCK)
        waiting = asyncio.ensure_future(keep_alive.wait_confirmed())
        await eventually("somebody waits", lambda: len(asyncio.all_tasks()) > 2)
        await keep_alive.stop()
        with pytest.raises(EtcdClosed):
            await waiting
    finally:
        await client.close()


async def test_a_frozen_etcd_does_not_extend_the_deadline(server: EtcdServer, stack: AsyncExitStack) -> None:
    client = await stack.enter_async_context(EtcdClient([server.endpoint]))
    lease = await client.grant(2)
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await keep_alive.wait_confirmed()
    server.pause()
    stack.callback(server.resume)
    frozen = CLOCK.now()
    await eventually("the deadline passes", lambda: CLOCK.now() > frozen + lease.ttl)
    assert keep_alive.deadline <= frozen + lease.ttl
    assert not keep_alive.lost.is_set()

    # Now etcd answers what has piled up. Whichever it says, an old request must not count as a new one.
    stale = keep_alive.deadline
    server.resume()
    awake = CLOCK.now()
    await eventually("etcd has decided", lambda: keep_alive.lost.is_set() or keep_alive.deadline > stale)
    if not keep_alive.lost.is_set():
        assert keep_alive.deadline <= CLOCK.now() + lease.ttl
        assert keep_alive.deadline >= awake - lease.ttl / 3 + lease.ttl


async def test_a_keep_alive_moves_to_another_endpoint_in_time(server: EtcdServer, stack: AsyncExitStack) -> None:
    proxy = await stack.enter_async_context(Proxy(server.endpoint))
    client = await stack.enter_async_context(EtcdClient([proxy.endpoint, server.endpoint]))
    lease = await client.grant(3)
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await keep_alive.wait_confirmed()
    for fault in (proxy.freeze, proxy.cut):
        outcome = fault()
        if outcome is not None:
            await outcome
        confirmed = keep_alive.deadline
        await eventually("another confirmation", lambda old=confirmed: keep_alive.deadline > old)
        assert CLOCK.now() < confirmed, "the deadline passed although a member could be reached"
    assert not keep_alive.lost.is_set()


class _SlowClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.reading = 100.0

    def now(self) -> float:
        return self.reading

    def time(self) -> float:
        return self.reading


class _SlowRenewer(Renewer):
    """Answers only when told to."""

    def __init__(self) -> None:
        super().__init__([], user=None, password="")
        self.sent = queue.SimpleQueue[int]()
        self.answers = queue.SimpleQueue[int]()

    def renew(self, lease_id: int, *, within: float) -> int:
        self.sent.put(lease_id)
        ttl = self.answers.get()
        if ttl < 0:
            raise EtcdClosed("closed")
        return ttl

    def close(self) -> None:
        self.answers.put(-1)


@pytest.fixture
async def slow() -> AsyncIterator[tuple[KeepAlive, _SlowRenewer, _SlowClock]]:
    clock, renewer = _SlowClock(), _SlowRenewer()
    keep_alive = KeepAlive(renewer, Lease(1, 3), clock=clock)
    yield keep_alive, renewer, clock
    await keep_alive.stop()


async def test_a_late_answer_counts_from_the_sending_of_its_request(
    slow: tuple[KeepAlive, _SlowRenewer, _SlowClock],
) -> None:
    keep_alive, renewer, clock = slow
    await asyncio.to_thread(renewer.sent.get)
    clock.reading = 100.9
    renewer.answers.put(3)
    await keep_alive.wait_confirmed()
    assert keep_alive.deadline == 103.0


async def test_close_stops_keep_alives_and_leaves_no_task(shared_server: EtcdServer) -> None:
    before = asyncio.all_tasks()
    async with EtcdClient([shared_server.endpoint]) as client:
        lease = await client.grant(60)
        keep_alive = client.keep_alive(lease, clock=CLOCK)
        await keep_alive.wait_confirmed()
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert keep_alive.stopped
    await eventually("all tasks end", lambda: asyncio.all_tasks() <= before)
