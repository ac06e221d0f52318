"""What a directory says about the members: types, placement, deadline, changes."""

import asyncio

import pytest

from actors.errors import ClusterUnavailable, UnknownActorType
from tests.conformance.directory.adapters import ADAPTERS, House, knows

each = pytest.mark.parametrize("house", ADAPTERS, indirect=True)
each_of_several = pytest.mark.parametrize("house", ADAPTERS[1:], indirect=True)


@each
async def test_a_silo_knows_itself(house: House) -> None:
    n1 = await house.join("n1")

    assert n1.is_member(n1.silo)
    assert not n1.is_member("n1.other")
    assert list(n1.types()) == ["session", "story"]
    assert n1.place("session-1") == n1.silo
    assert n1.deadline > 0


@each
async def test_an_unknown_type_is_refused_with_the_known_ones(house: House) -> None:
    n1 = await house.join("n1")
    with pytest.raises(UnknownActorType, match=r"tale-1.*'tale'.*session, story"):
        n1.place("tale-1")


@each
async def test_the_members_of_a_type_are_those_that_host_it(house: House) -> None:
    n1 = await house.join("n1")
    assert list(n1.members()) == list(n1.members("session")) == [n1.silo]
    assert list(n1.members("tale")) == []


@each
async def test_a_silo_that_drains_is_a_member_but_hosts_nothing_new(house: House) -> None:
    n1 = await house.join("n1")
    await house.drain(n1)
    async with asyncio.timeout(10):
        while list(n1.members("session")):
            await asyncio.wait({asyncio.ensure_future(n1.changed())}, timeout=0.05)
    assert list(n1.members()) == [n1.silo]


@each_of_several
async def test_all_members_are_told_in_the_same_order(house: House) -> None:
    """What each of them reckons from the list has to come out the same."""
    directories = [await house.join(name) for name in ("n2", "n1", "n3")]
    silos = sorted(directory.silo for directory in directories)
    for directory in directories:
        await knows(directory, *silos)
        assert list(directory.members()) == list(directory.members("session")) == silos


@each
async def test_nothing_is_placed_where_everyone_drains(house: House) -> None:
    n1 = await house.join("n1")
    await house.drain(n1)
    async with asyncio.timeout(10):
        while True:
            try:
                n1.place("session-1")
            except ClusterUnavailable as error:
                assert "session-1" in str(error)  # noqa: PT017  # the loop polls for this error
                return
            await asyncio.sleep(0.01)


@each_of_several
async def test_everything_is_placed_past_a_silo_that_drains(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n1, n2.silo)
    await house.drain(n2)
    async with asyncio.timeout(10):
        while {n1.place(f"session-{number}") for number in range(20)} != {n1.silo}:
            await asyncio.wait({asyncio.ensure_future(n1.changed())}, timeout=0.05)
    assert n1.is_member(n2.silo)


@each_of_several
async def test_members_come_and_go_in_every_view(house: House) -> None:
    n1 = await house.join("n1")
    heard = asyncio.ensure_future(n1.changed())
    await asyncio.sleep(0)
    n2 = await house.join("n2")
    async with asyncio.timeout(10):
        await heard
    await knows(n1, n2.silo)
    await knows(n2, n1.silo)

    await house.end(n2)

    await knows(n1, n2.silo, gone=True)
    assert n1.is_member(n1.silo)
    assert n1.place("session-1") == n1.silo


@each_of_several
async def test_the_deadline_of_a_silo_that_is_out_has_passed(house: House) -> None:
    n1, n2 = await house.join("n1"), await house.join("n2")
    await knows(n2, n1.silo)

    await house.end(n1)

    async with asyncio.timeout(10):
        while n1.deadline != float("-inf"):
            await asyncio.wait({asyncio.ensure_future(n2.changed())}, timeout=0.05)
    assert n2.deadline > 0
