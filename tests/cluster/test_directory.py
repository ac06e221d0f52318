"""The directory over etcd: groups, duplicate keys, eras, and an etcd that is away, wiped or restored."""

import asyncio
import re
import time
from contextlib import AsyncExitStack

import pytest

from actors.errors import ClusterUnavailable
from actors.ports import Commit, Fenced
from cluster.directory import ERA_BITS, EtcdDirectory, NewerFormat, StoreMismatch
from cluster.etcd import EtcdServer, Op
from cluster.formats import FORMATS
from cluster.store import MemoryStore
from tests.cluster.processes import freeze
from tests.conformance.directory.adapters import EtcdHouse, knows


@pytest.fixture
def shared(etcd_server: EtcdServer, exits: AsyncExitStack) -> EtcdHouse:
    """Directories over the shared etcd."""
    return EtcdHouse(etcd_server, exits)


@pytest.fixture
def own(own_etcd: EtcdServer, exits: AsyncExitStack) -> EtcdHouse:
    """Directories over an etcd of the test's own."""
    return EtcdHouse(own_etcd, exits)


def addresses(count: int) -> list[str]:
    return [f"session-{number}" for number in range(count)]


# -- group commit ------------------------------------------------------------------------------------------------------


async def test_claims_that_come_together_share_transactions(shared: EtcdHouse) -> None:
    n1 = await shared.join("n1")

    routes = await asyncio.gather(*(n1.claim(address) for address in addresses(2_000)))

    assert {route.silo for route in routes} == {n1.silo}
    assert n1.writes == 2_000
    assert n1.groups <= 2_000 / 50, f"{n1.groups} transactions for 2,000 claims"


async def test_a_claim_alone_is_not_kept_waiting_for_others(shared: EtcdHouse) -> None:
    n1 = await shared.join("n1")
    for address in addresses(5):
        await n1.claim(address)
    assert (n1.groups, n1.writes) == (5, 5)


async def test_a_group_decides_on_each_of_its_claims_alone(shared: EtcdHouse) -> None:
    n1, n2 = await shared.join("n1"), await shared.join("n2")
    await knows(n2, n1.silo)
    taken = {address: await n1.claim(address) for address in addresses(20)[::2]}

    routes = dict(zip(addresses(20), await asyncio.gather(*map(n2.claim, addresses(20))), strict=True))

    for address in addresses(20):
        assert routes[address] == taken.get(address, routes[address])
        assert routes[address].silo == (n1.silo if address in taken else n2.silo)


async def test_one_key_many_times_in_one_burst(shared: EtcdHouse) -> None:
    """etcd refuses a transaction that puts a key twice, so the writes of one key go one after the other, in order."""
    n1 = await shared.join("n1")

    routes = await asyncio.gather(*(n1.claim("session-1") for _ in range(5)), *map(n1.claim, addresses(50)))

    assert {route.silo for route in routes} == {n1.silo}
    epochs = {route.epoch for route in [*routes[:5], routes[6]]}  # the claims of session-1
    assert len(epochs) == 6, "two claims of one address got the same epoch"
    await n1.release("session-1", max(epochs))
    assert not (await (await shared.client()).get(shared.keys.actor("session-1"))).kvs


async def test_a_key_that_is_under_way_holds_up_no_other_and_burns_no_cpu(own: EtcdHouse, own_etcd: EtcdServer) -> None:
    n1 = await own.join("n1")
    await freeze(own_etcd)
    first = asyncio.create_task(n1.claim("session-1"))
    await asyncio.sleep(0)
    second = asyncio.create_task(n1.claim("session-1"))
    used, started = time.process_time(), time.monotonic()
    await asyncio.wait({second}, timeout=0.5)
    busy = (time.process_time() - used) / (time.monotonic() - started)
    own_etcd.resume()

    routes = await asyncio.gather(first, second, n1.claim("session-2"))

    assert {route.silo for route in routes} == {n1.silo}
    assert busy < 0.5, f"waiting for one transaction took {busy:.0%} of a CPU"


async def test_a_caller_that_goes_away_stops_nobody_elses_claim(shared: EtcdHouse) -> None:
    n1 = await shared.join("n1")
    claims = [asyncio.create_task(n1.claim(address)) for address in addresses(10)]
    await asyncio.sleep(0)
    for claim in claims[::2]:
        claim.cancel()

    results = await asyncio.gather(*claims, return_exceptions=True)

    for number, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) is (number % 2 == 0)
    assert (await n1.claim("session-0")).silo == n1.silo


# -- views that lag ----------------------------------------------------------------------------------------------------


async def test_an_owner_that_is_dead_but_not_yet_seen_so_is_named(shared: EtcdHouse) -> None:
    """The claimer's view decides when to try a takeover; etcd decides whether it succeeds."""
    n1, n2 = await shared.join("n1"), await shared.join("n2")
    await knows(n2, n1.silo)
    owned = await n1.claim("session-1")
    await shared.memberships[n2.silo].stop()  # hears nothing any more
    await shared.end(n1)

    assert await n2.claim("session-1") == owned


async def test_a_release_between_read_and_write_is_noticed(shared: EtcdHouse) -> None:
    """The owner's entry goes away after the claimer has read it: its next attempt starts from there."""
    n1, n2 = await shared.join("n1"), await shared.join("n2")
    await knows(n2, n1.silo)
    for _ in range(20):
        owned = await n1.claim("session-1")
        _, found = await asyncio.gather(n1.release("session-1", owned.epoch), n2.claim("session-1"))
        if found.silo == n2.silo:
            assert found.epoch > owned.epoch
            await n2.release("session-1", found.epoch)
        else:
            assert found == owned


# -- formats -----------------------------------------------------------------------------------------------------------


async def test_what_a_newer_release_has_in_etcd_is_refused_and_left_as_it_is(shared: EtcdHouse) -> None:
    n1 = await shared.join("n1")
    etcd = await shared.client()
    (entry,) = (await etcd.get(shared.keys.format)).kvs
    assert int(entry.value) == FORMATS["etcd"]
    await etcd.txn([], [Op.put(shared.keys.format, b"%d" % (FORMATS["etcd"] + 1))])
    before = await etcd.get(shared.keys.root, prefix=True)
    with pytest.raises(NewerFormat, match=r"written by a newer release .* Upgrade this silo"):
        await n1.adopt()
    assert (await etcd.get(shared.keys.root, prefix=True)).kvs == before.kvs


# -- one store ---------------------------------------------------------------------------------------------------------


async def test_a_silo_with_another_store_is_refused(shared: EtcdHouse) -> None:
    n1 = await shared.join("n1")
    stranger = EtcdDirectory(
        await shared.client(), shared.keys, shared.memberships[n1.silo], store=MemoryStore(), placement=n1._placement
    )
    with pytest.raises(StoreMismatch, match=f"{re.escape(shared.data.id)}.*all silos must share one store"):
        await stranger.adopt()


# -- an etcd with another past -----------------------------------------------------------------------------------------


async def test_epochs_rise_after_etcd_was_wiped(own: EtcdHouse) -> None:
    """A directory that starts from nothing over a store that remembers: the era goes up, so every epoch does."""
    n1 = await own.join("n1")
    before = await n1.claim("session-1")
    store = MemoryStore(own.data)
    await store.open("session-1", before.epoch)
    era = await store.raise_era(0)
    await (await own.client()).delete(own.keys.root, prefix=True)

    again = await own.join("n1")
    after = await again.claim("session-1")

    assert await store.raise_era(0) > era
    assert after.epoch > before.epoch
    await store.open("session-1", after.epoch)
    with pytest.raises(Fenced):
        await store.commit(Commit(address="session-1", epoch=before.epoch, state=b"zombie"))


async def test_an_era_that_was_begun_elsewhere_is_taken_over(shared: EtcdHouse) -> None:
    """A store that was used by an embedded silo meanwhile is ahead of etcd."""
    await MemoryStore(shared.data).raise_era(41)
    n1 = await shared.join("n1")
    n2 = await shared.join("n2")

    for silo in (n1, n2):
        assert (await silo.claim(f"session-{silo.silo}")).epoch >> ERA_BITS == 42


async def test_an_address_opens_after_etcd_was_restored_to_an_older_revision(shared: EtcdHouse) -> None:
    n1, n2 = await shared.join("n1"), await shared.join("n2")
    await knows(n2, n1.silo)
    store = MemoryStore(shared.data)
    route = await n1.claim("session-1")
    stored = route.epoch + 100_000  # from the future that etcd forgot, in the same era
    await store.open("session-1", stored)
    with pytest.raises(Fenced):
        await store.open("session-1", route.epoch)

    epoch = await n1.outrun("session-1", stored)

    assert epoch > stored
    await store.open("session-1", epoch)
    with pytest.raises(Fenced):
        await store.commit(Commit(address="session-1", epoch=stored, state=b"zombie"))
    # The other silo has not heard of the new era; it must get past it, too.
    await n1.release("session-1", epoch)
    taken = await n2.claim("session-1")
    assert taken.silo == n2.silo
    if taken.epoch < epoch:
        taken_epoch = await n2.outrun("session-1", epoch)
        assert taken_epoch > epoch


async def test_an_epoch_that_was_outrun_can_be_released(shared: EtcdHouse) -> None:
    n1, n2 = await shared.join("n1"), await shared.join("n2")
    await knows(n2, n1.silo)
    route = await n1.claim("session-1")
    epoch = await n1.outrun("session-1", route.epoch + (3 << ERA_BITS))

    await n1.release("session-1", epoch)

    assert (await n2.claim("session-1")).silo == n2.silo


async def test_two_silos_that_outrun_at_once_agree_on_the_era(shared: EtcdHouse) -> None:
    n1, n2 = await shared.join("n1"), await shared.join("n2")
    await n1.claim("session-1")
    await n2.claim("session-2")
    stored = 7 << ERA_BITS

    epochs = await asyncio.gather(n1.outrun("session-1", stored), n2.outrun("session-2", stored))

    assert all(epoch > stored for epoch in epochs)
    assert await MemoryStore(shared.data).raise_era(0) == max(epoch >> ERA_BITS for epoch in epochs)


async def test_a_release_from_before_etcd_was_wiped_removes_nothing(own: EtcdHouse) -> None:
    """Revisions count anew there: an old one can meet the entry of somebody else by chance."""
    n1, n2 = await own.join("n1"), await own.join("n2")
    await knows(n2, n1.silo)
    owned = await n1.claim("session-1")
    revision = owned.epoch & ((1 << ERA_BITS) - 1)

    await n2.release("session-1", (1 << ERA_BITS) | revision)

    assert await n2.claim("session-1") == owned


# -- an etcd that is away ----------------------------------------------------------------------------------------------


async def test_a_claim_while_etcd_is_away_fails_in_time_and_works_afterwards(
    own: EtcdHouse, own_etcd: EtcdServer
) -> None:
    n1 = await own.join("n1", timeout=1.0)
    await own_etcd.kill()
    started = time.monotonic()

    results = await asyncio.gather(*map(n1.claim, addresses(300)), return_exceptions=True)

    assert time.monotonic() - started < 6
    assert {type(result) for result in results} == {ClusterUnavailable}
    assert "session-0: the directory cannot be reached" in str(results[0])
    await own_etcd.start()
    assert (await n1.claim("session-1")).silo == n1.silo


async def test_a_claim_while_etcd_is_frozen_fails_in_time_and_works_afterwards(
    own: EtcdHouse, own_etcd: EtcdServer
) -> None:
    n1 = await own.join("n1", timeout=1.0)
    await freeze(own_etcd)
    started = time.monotonic()

    with pytest.raises(ClusterUnavailable, match="session-1: the directory cannot be reached"):
        await n1.claim("session-1")

    assert time.monotonic() - started < 4
    own_etcd.resume()
    # Whether the write that was not answered has taken effect does not matter.
    assert (await n1.claim("session-1")).silo == n1.silo
