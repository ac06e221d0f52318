"""Wake-up times: who is due, for whom, and in which order."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf, nextafter

import pytest

from actors.ports import Commit, Due
from cluster.store import LocalStore

Connect = Callable[[], Awaitable[LocalStore]]
ADDRESS = "session-42"
ALICE, BOB = "alice.1", "bob.1"


async def sleep_until(store: LocalStore, address: str, wake: float | None, *, host: str = "") -> None:
    await store.open(address, 1, host)
    await store.commit(Commit(address=address, epoch=1, wake=wake))


async def due(store: LocalStore, before: float = 100.0, *, hosts: tuple[str, ...] = ()) -> list[str]:
    return [found.address for found in await store.due(before, hosts=hosts, limit=1000)]


async def test_nobody_is_due_who_has_no_wake_up_time(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    assert await due(store, inf) == []
    await store.commit(Commit(address=ADDRESS, epoch=1, state=b"one", put={b"a": b""}))
    assert await due(store, inf) == []


@pytest.mark.parametrize("wake", [0.0, -1.5, 1e-300, 1_753_000_000.123456, 1e300])
async def test_an_address_is_due_from_its_wake_up_time_on(store: LocalStore, wake: float) -> None:
    await sleep_until(store, ADDRESS, wake)
    assert await store.due(nextafter(wake, -inf), hosts=(), limit=10) == []
    assert await store.due(wake, hosts=(), limit=10) == [Due(wake, ADDRESS)]
    assert await store.due(inf, hosts=(), limit=10) == [Due(wake, ADDRESS)]


async def test_a_commit_leaves_moves_or_removes_the_wake_up_time(store: LocalStore, connect: Connect) -> None:
    await sleep_until(store, ADDRESS, 5.0)
    await store.commit(Commit(address=ADDRESS, epoch=1, state=b"one"))
    await store.open(ADDRESS, 2)
    other = await connect()
    assert await other.due(9.0, hosts=(), limit=10) == [Due(5.0, ADDRESS)]
    for wake in (7.0, 3.0):
        await store.commit(Commit(address=ADDRESS, epoch=2, wake=wake))
        assert await other.due(9.0, hosts=(), limit=10) == [Due(wake, ADDRESS)]
    await store.commit(Commit(address=ADDRESS, epoch=2, wake=None))
    assert await due(other) == []


async def test_the_last_of_several_wake_up_times_stays(store: LocalStore) -> None:
    await store.open(ADDRESS, 1, ALICE)
    wakes: tuple[float | None, ...] = (1.0, None, 2.0)
    await asyncio.gather(*(store.commit(Commit(address=ADDRESS, epoch=1, wake=wake)) for wake in wakes))
    assert await store.due(9.0, hosts=(), limit=10) == [Due(2.0, ADDRESS)]
    await asyncio.gather(
        store.commit(Commit(address=ADDRESS, epoch=1, wake=3.0)),
        store.commit(Commit(address=ADDRESS, epoch=1, asleep=True)),
        store.commit(Commit(address=ADDRESS, epoch=1, state=b"later")),
    )
    assert await store.due(9.0, hosts=(ALICE,), limit=10) == [Due(3.0, ADDRESS)]


async def test_soonest_first_then_by_address(store: LocalStore) -> None:
    wakes = {"b-1": 2.0, "a-2": 2.0, "a-10": 2.0, "a-é": 2.0, "a-z": 2.0, "z-1": 1.0, "a-1": 3.0, "c-1": 1.5}
    for number, (address, wake) in enumerate(wakes.items()):
        await sleep_until(store, address, wake, host=("", ALICE, BOB)[number % 3])
    expected = sorted(Due(wake, address) for address, wake in wakes.items())
    assert await store.due(3.0, hosts=(), limit=100) == expected
    assert await store.due(2.0, hosts=(), limit=100) == expected[:-1]
    for limit in range(len(expected) + 1):
        assert await store.due(3.0, hosts=(), limit=limit) == expected[:limit]


async def test_pages_go_on_behind_the_last_one(store: LocalStore) -> None:
    for number in range(24):
        await sleep_until(store, f"session-{number}", float(number % 3), host=("", ALICE, BOB, "carol.1")[number % 4])
    for hosts in ((), (ALICE,), (ALICE, BOB)):
        everything = await store.due(1.0, hosts=hosts, limit=100)
        for size in (1, 3, 5):
            found: list[Due] = []
            while page := await store.due(1.0, hosts=hosts, after=found[-1] if found else None, limit=size):
                assert len(page) <= size
                found += page
            assert found == everything


async def test_after_need_not_be_an_address_that_is_due(store: LocalStore) -> None:
    await sleep_until(store, "b-1", 1.0)
    await sleep_until(store, "b-2", 2.0, host=ALICE)
    for after, found in (
        (Due(0.0, "z-1"), ["b-1", "b-2"]),
        (Due(1.0, "a-1"), ["b-1", "b-2"]),
        (Due(1.0, "b-1"), ["b-2"]),
        (Due(1.5, ""), ["b-2"]),
        (Due(2.0, "b-1x"), ["b-2"]),
        (Due(2.0, "b-2"), []),
        (Due(50.0, "a-1"), []),
    ):
        assert [due.address for due in await store.due(9.0, hosts=(), after=after, limit=9)] == found, after


async def test_those_of_living_hosts_are_theirs(store: LocalStore) -> None:
    await sleep_until(store, "session-a", 1.0, host=ALICE)
    await sleep_until(store, "session-b", 2.0, host=BOB)
    await sleep_until(store, "session-none", 3.0)
    assert await due(store) == ["session-a", "session-b", "session-none"]
    assert await due(store, hosts=(ALICE,)) == ["session-b", "session-none"]
    assert await due(store, hosts=(ALICE, BOB, "carol.1")) == ["session-none"]
    assert await due(store, hosts=("alice", "ALICE.1", "alice.2")) == ["session-a", "session-b", "session-none"]
    assert await due(store, hosts=(ALICE, "")) == ["session-b", "session-none"]  # no host is never a living one
    found = await store.due(9.0, hosts={ALICE}, limit=9)  # any collection will do
    assert [due.address for due in found] == ["session-b", "session-none"]


async def test_hosts_have_any_name(store: LocalStore) -> None:
    hosts = ["é.1", "a b", "a'; --", "%", "\U0001f600.1"]
    for number, host in enumerate(hosts):
        await sleep_until(store, f"session-{number}", 1.0, host=host)
    for number, host in enumerate(hosts):
        assert f"session-{number}" not in await due(store, hosts=(host,))
        assert len(await due(store, hosts=(host,))) == len(hosts) - 1


async def test_who_opens_is_the_host(store: LocalStore, connect: Connect) -> None:
    await sleep_until(store, ADDRESS, 1.0, host=ALICE)
    await (await connect()).open(ADDRESS, 2, BOB)
    assert await due(store, hosts=(ALICE,)) == [ADDRESS]
    assert await due(store, hosts=(BOB,)) == []
    await store.commit(Commit(address=ADDRESS, epoch=2, asleep=True))
    await store.open(ADDRESS, 2, ALICE)  # of the same epoch, when its activation has gone
    assert await due(store, hosts=(ALICE,)) == []
    await store.open(ADDRESS, 3)
    assert await due(store, hosts=(ALICE, BOB)) == [ADDRESS]


async def test_a_fenced_open_does_not_become_the_host(store: LocalStore) -> None:
    await store.open(ADDRESS, 7, ALICE)
    await store.commit(Commit(address=ADDRESS, epoch=7, wake=1.0))
    await asyncio.gather(store.open(ADDRESS, 6, BOB), return_exceptions=True)
    assert await due(store, hosts=(ALICE,)) == []
    assert await due(store, hosts=(BOB,)) == [ADDRESS]


async def test_asleep_gives_the_address_to_everybody(store: LocalStore) -> None:
    await sleep_until(store, ADDRESS, 1.0, host=ALICE)
    await store.commit(Commit(address=ADDRESS, epoch=1, state=b"one", asleep=True))
    assert await due(store, hosts=(ALICE,)) == [ADDRESS]
    await store.commit(Commit(address=ADDRESS, epoch=1, wake=2.0))  # which does not wake the activation again
    assert await due(store, hosts=(ALICE,)) == [ADDRESS]
    await store.open(ADDRESS, 2, ALICE)
    assert await due(store, hosts=(ALICE,)) == []


async def test_asleep_and_a_new_wake_up_time_in_one_commit(store: LocalStore) -> None:
    await store.open(ADDRESS, 1, ALICE)
    await store.commit(Commit(address=ADDRESS, epoch=1, wake=4.0, asleep=True))
    assert await store.due(4.0, hosts=(ALICE,), limit=9) == [Due(4.0, ADDRESS)]


async def test_opening_again_after_sleep_in_one_group(store: LocalStore) -> None:
    await sleep_until(store, ADDRESS, 1.0, host=ALICE)
    await asyncio.gather(
        store.commit(Commit(address=ADDRESS, epoch=1, asleep=True)),
        store.open(ADDRESS, 2, BOB),
        store.commit(Commit(address=ADDRESS, epoch=2, wake=2.0)),
        store.open(ADDRESS, 3, ALICE),
    )
    assert await due(store, hosts=(ALICE,)) == []
    assert await store.due(9.0, hosts=(BOB,), limit=9) == [Due(2.0, ADDRESS)]


async def test_erasing_keeps_the_host(store: LocalStore) -> None:
    await sleep_until(store, ADDRESS, 1.0, host=ALICE)
    await store.commit(Commit(address=ADDRESS, epoch=1, erase=True))
    assert await due(store) == []
    await store.commit(Commit(address=ADDRESS, epoch=1, wake=2.0))
    assert await due(store) == [ADDRESS]
    assert await due(store, hosts=(ALICE,)) == []


async def test_wake_up_times_of_many_at_once(store: LocalStore) -> None:
    addresses = [f"session-{number:04}" for number in range(1200)]
    hosts = ["", ALICE, BOB]
    await asyncio.gather(*(store.open(address, 1, hosts[number % 3]) for number, address in enumerate(addresses)))
    await asyncio.gather(
        *(
            store.commit(Commit(address=address, epoch=1, wake=float(number)))
            for number, address in enumerate(addresses)
        )
    )
    assert [found.address for found in await store.due(inf, hosts=(), limit=5000)] == addresses
    found = await store.due(599.0, hosts=(BOB,), limit=5000)
    assert found == [Due(float(number), addresses[number]) for number in range(600) if number % 3 != 2]
