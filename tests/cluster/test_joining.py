"""A silo that is about to become a member, when etcd or the store goes away from it at the worst moment."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors import actor_ref
from actors.ports import StoreUnavailable
from cluster import Silo
from cluster.etcd import EtcdClient, EtcdUnavailable
from cluster.etcd.lease import Lease
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.house import House, calling_from, membership_of, silo_id
from tests.cluster.waiting import eventually

NO_HANG = 40.0  # seconds


@pytest.fixture
async def way(house: House) -> AsyncIterator[Proxy]:
    """To etcd."""
    async with Proxy(house.server.endpoint) as way:
        yield way


def freeze_after_grant(way: Proxy, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let etcd answer no more behind the proxy once it has granted a lease there. The event says that it did."""
    granted = asyncio.Event()
    grant = EtcdClient.grant

    async def grant_and_go(self: EtcdClient, ttl: int) -> Lease:
        lease = await grant(self, ttl)
        way.freeze()
        granted.set()
        return lease

    monkeypatch.setattr(EtcdClient, "grant", grant_and_go)
    return granted


async def starting(house: House, way: Proxy, granted: asyncio.Event) -> tuple[Silo, "asyncio.Task[None]"]:
    """A silo that listens, and has a lease that nobody renews."""
    silo = house.new("n2", etcd=way.endpoint)
    task = asyncio.create_task(silo.start())
    async with asyncio.timeout(NO_HANG):
        await granted.wait()
    await eventually("it listens", lambda: bool(silo.grpc))
    return silo, task


async def test_a_silo_that_is_no_member_yet_takes_no_clients(
    house: House, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait there while others could answer."""
    (member,) = await house.start("n1")
    granted = freeze_after_grant(way, monkeypatch)
    joining, task = await starting(house, way, granted)
    client = await house.client(joining.grpc, member.grpc)
    with calling_from(client):
        assert await actor_ref("counter-n1.a").options(timeout=NO_HANG).add() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_joining_does_not_wait_for_ever_for_a_lease_that_nobody_renews(
    house: House, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = freeze_after_grant(way, monkeypatch)
    _, task = await starting(house, way, granted)
    async with asyncio.timeout(NO_HANG):
        with pytest.raises(EtcdUnavailable, match="no renewal of its lease"):
            await task


async def test_a_store_that_is_away_when_a_silo_joins_again_is_said_in_a_line(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (silo,) = await house.start("n1")
    before = silo_id(silo)
    assert silo._store is not None
    raise_era, refusals = silo._store.raise_era, ["the database is starting up"]

    async def refuse_once(atleast: int) -> int:
        if refusals:
            raise StoreUnavailable(refusals.pop())
        return await raise_era(atleast)

    monkeypatch.setattr(silo._store, "raise_era", refuse_once)
    membership_of(silo)._lose("the test says so")
    await eventually("it joins again", lambda: silo.ready and silo_id(silo) != before, within=NO_HANG)
    (said,) = [record for record in caplog.records if "cannot rejoin" in record.getMessage()]
    assert (said.getMessage(), said.exc_info) == ("n1 cannot rejoin yet: the database is starting up", None)
