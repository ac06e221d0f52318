"""One owner per address, whoever asks and however many ask at once."""

import asyncio

import pytest

from actors.errors import ClusterUnavailable
from actors.ports import Fenced, Route
from tests.conformance.directory.adapters import ADAPTERS, EtcdHouse, House, knows

each = pytest.mark.parametrize("house", ADAPTERS, indirect=True)
each_of_several = pytest.mark.parametrize("house", ADAPTERS[1:], indirect=True)


@each
async def test_the_first_claim_makes_the_claimer_the_owner(house: House) -> None:
    n1 = await house.join("n1")

    route = await n1.claim("session-1")

    assert route.silo == n1.silo
    assert route.epoch > 0


@each_of_several
async def test_concurrent_claimers_are_all_told_the_same_owner(house: House) -> None:
    """Guards the ``absent`` comparison of the claim: without it every claimer would win."""
    silos = [await house.join(f"n{number}") for number in range(1, 5)]
    for silo in silos:
        await knows(silo, *(other.silo for other in silos))
    addresses = [f"session-{number}" for number in range(50)]

    told = await asyncio.gather(*(silo.claim(address) for address in addresses for silo in silos))

    for number, address in enumerate(addresses):
        routes = set(told[number * len(silos) : (number + 1) * len(silos)])
        assert len(routes) == 1, f"{address}: several owners were told: {routes}"
        assert routes.pop().silo in {silo.silo for silo in silos}


@each_of_several
async def test_who_comes_later_is_told_the_owner_and_its_epoch(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    first = await n1.claim("session-1")

    assert [await n2.claim("session-1") for _ in range(3)] == [first] * 3


@each_of_several
async def test_an_owner_that_a_lagging_view_does_not_know_yet_is_respected(house: House) -> None:
    """A claim decides by what the directory holds, not by what this silo has heard of it."""
    n2 = await house.join("n2")
    n1 = await house.join("n1")  # perhaps not in n2's view yet
    first = await n1.claim("session-1")

    assert await n2.claim("session-1") == first


@each
async def test_epochs_rise_with_every_claim_after_a_release(house: House) -> None:
    n1 = await house.join("n1")
    epochs = []
    for _ in range(10):
        route = await n1.claim("session-1")
        epochs.append(route.epoch)
        await n1.release("session-1", route.epoch)

    assert epochs == sorted(set(epochs))


@each
async def test_epochs_rise_when_the_owner_claims_its_own_entry_again(house: House) -> None:
    """Its first activation has gone without a release: whatever that one still writes must be fenced."""
    n1 = await house.join("n1")

    epochs = [(await n1.claim("session-1")).epoch for _ in range(5)]

    assert epochs == sorted(set(epochs))


@each_of_several
async def test_an_entry_is_handed_over_with_nobody_in_between(house: House) -> None:
    """Guards the comparison of the entry and of the new owner's record."""
    n1, n2, n3 = [await house.join(name) for name in ("n1", "n2", "n3")]
    for silo in (n1, n2, n3):
        await knows(silo, n1.silo, n2.silo, n3.silo)
    first = await n1.claim("session-1")

    epoch = await n1.transfer("session-1", first.epoch, n2.silo)

    assert epoch is not None
    assert epoch > first.epoch
    assert await n3.claim("session-1") == Route(n2.silo, epoch)
    assert await n1.transfer("session-1", first.epoch, n3.silo) is None, "it is not n1's any more"
    await n1.release("session-1", first.epoch)
    assert await n3.claim("session-1") == Route(n2.silo, epoch)
    assert await n2.transfer("session-1", first.epoch, n3.silo) is None, "that is not its epoch"
    await house.end(n3)
    assert await n2.transfer("session-1", epoch, n3.silo) is None, "n3 is gone"
    assert (await n2.claim("session-1")).silo == n2.silo


@each_of_several
async def test_what_was_handed_over_is_the_new_owners_only(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n1, n2.silo)
    await knows(n2, n1.silo)
    first = await n1.claim("session-1")
    epoch = await n1.transfer("session-1", first.epoch, n2.silo)
    assert epoch is not None

    await n2.release("session-1", epoch)

    assert (await n1.claim("session-1")).silo == n1.silo


@each
async def test_a_place_is_none_of_those_that_are_excluded(house: House) -> None:
    n1 = await house.join("n1")
    with pytest.raises(ClusterUnavailable, match="session-1"):
        n1.place("session-1", but=[n1.silo])


@each_of_several
async def test_epochs_rise_from_owner_to_owner(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n1, n2.silo)
    await knows(n2, n1.silo)
    epochs = []
    for turn in range(6):
        owner = (n1, n2)[turn % 2]
        route = await owner.claim("session-1")
        assert route.silo == owner.silo
        epochs.append(route.epoch)
        await owner.release("session-1", route.epoch)

    assert epochs == sorted(set(epochs))


@each_of_several
async def test_a_released_address_goes_to_whoever_claims_it(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    route = await n1.claim("session-1")

    await n1.release("session-1", route.epoch)

    assert (await n2.claim("session-1")).silo == n2.silo


@each_of_several
async def test_the_release_of_an_old_epoch_removes_nothing(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    old = await n1.claim("session-1")
    new = await n1.claim("session-1")

    await n1.release("session-1", old.epoch)

    assert await n2.claim("session-1") == new


@each_of_several
async def test_the_release_of_another_silos_entry_removes_nothing(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n1, n2.silo)
    await knows(n2, n1.silo)
    owned = await n1.claim("session-1")

    await n2.release("session-1", owned.epoch)

    assert await n2.claim("session-1") == owned


@each_of_several
async def test_a_live_owner_keeps_its_entry_and_a_dead_one_loses_it(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    before = await n1.claim("session-1")
    assert (await n2.claim("session-1")).silo == n1.silo

    await house.end(n1)
    await knows(n2, n1.silo, gone=True)
    after = await n2.claim("session-1")

    assert after.silo == n2.silo
    assert after.epoch > before.epoch


@each_of_several
async def test_one_of_the_survivors_takes_over(house: House) -> None:
    """Guards the comparison with the revision that was read: without it each survivor would take the entry."""
    dying, *survivors = [await house.join(f"n{number}") for number in range(1, 5)]
    for silo in survivors:
        await knows(silo, dying.silo, *(other.silo for other in survivors))
    addresses = [f"session-{number}" for number in range(30)]
    before = [await dying.claim(address) for address in addresses]
    await house.end(dying)
    for silo in survivors:
        await knows(silo, dying.silo, gone=True)

    told = await asyncio.gather(*(silo.claim(address) for address in addresses for silo in survivors))

    for number, address in enumerate(addresses):
        routes = set(told[number * 3 : number * 3 + 3])
        assert len(routes) == 1, f"{address}: several took over: {routes}"
        route = routes.pop()
        assert route.silo in {silo.silo for silo in survivors}
        assert route.epoch > before[number].epoch


@each_of_several
async def test_who_is_no_member_cannot_claim(house: House) -> None:
    """Guards the comparison with the claimer's own record: without it a zombie would become an owner."""
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    await house.end(n1)

    for _ in range(3):  # at first its own view may still say that it is one
        with pytest.raises(ClusterUnavailable, match=n1.silo):
            await n1.claim("session-1")

    await knows(n2, n1.silo, gone=True)
    assert (await n2.claim("session-1")).silo == n2.silo


@each_of_several
async def test_who_is_no_member_cannot_renew_its_own_entry(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    before = await n1.claim("session-1")
    await house.end(n1)

    with pytest.raises(ClusterUnavailable, match=n1.silo):
        await n1.claim("session-1")

    await knows(n2, n1.silo, gone=True)
    assert (await n2.claim("session-1")).epoch > before.epoch


@each_of_several
async def test_another_incarnation_of_a_name_is_another_owner(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    before = await n1.claim("session-1")
    await house.end(n1)
    again = await house.join("n1")

    after = await again.claim("session-1")

    assert after == Route(again.silo, after.epoch)
    assert after.epoch > before.epoch


@each_of_several
async def test_keys_of_one_type_do_not_shadow_those_of_another(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    assert (await n1.claim("session-1")).silo == n1.silo

    assert (await n2.claim("story-1")).silo == n2.silo
    assert (await n2.claim("session-11")).silo == n2.silo
    assert (await n2.claim("session-1-1")).silo == n2.silo
    assert (await n2.claim("session-ü 1")).silo == n2.silo


@each_of_several
async def test_a_claim_outruns_what_the_store_has_seen(house: House) -> None:
    n1 = await house.join("n1")
    route = await n1.claim("session-1")
    stored = route.epoch + (5 << 40)

    higher = await n1.outrun("session-1", stored)

    assert higher > stored


@each_of_several
async def test_who_lost_its_claim_outruns_nothing(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)
    stale = await n1.claim("session-1")
    await house.end(n1)
    await knows(n2, n1.silo, gone=True)
    owner = await n2.claim("session-1")

    with pytest.raises(Fenced, match="session-1"):
        await n1.outrun("session-1", owner.epoch)
    with pytest.raises(Fenced, match="session-2"):
        await n2.outrun("session-2", stale.epoch)  # never claimed


@pytest.mark.parametrize("house", ["lonely"], indirect=True)
async def test_a_lonely_silo_outruns_nothing(house: House) -> None:
    """The store has seen another process: this one has lost it."""
    n1 = await house.join("n1")
    route = await n1.claim("session-1")
    with pytest.raises(Fenced):
        await n1.outrun("session-1", route.epoch + 1)


@pytest.mark.parametrize("house", ["etcd"], indirect=True)
async def test_only_etcd_decides_on_a_takeover(house: EtcdHouse) -> None:
    """Guards the comparison that the owner's record is absent: a view that lost a live owner must not be believed."""
    n1, n2 = await house.join("n1"), await house.join("n2")
    owned = await n1.claim("session-1")
    house.memberships[n2.silo].view.members.pop(n1.silo, None)  # as after an event that was never sent
    assert not n2.is_member(n1.silo)

    assert await n2.claim("session-1") == owned
