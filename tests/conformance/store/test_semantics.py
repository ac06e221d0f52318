"""Ownership: epochs, fencing, order, cancelling, the era and the end of a handle. One promise a test."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors.ports import Commit, Fenced, Opened, StoreUnavailable
from cluster.store import LocalStore
from tests.conformance.store.adapters import NewPlace

Connect = Callable[[], Awaitable[LocalStore]]
ADDRESS = "session-42"


async def test_a_new_address_has_no_state(store: LocalStore) -> None:
    assert await store.open(ADDRESS, 1) == Opened()


async def test_a_committed_state_is_what_the_next_open_returns(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(address=ADDRESS, epoch=1, state=b"one"))
    assert (await store.open(ADDRESS, 2)).state == b"one"
    assert (await (await connect()).open(ADDRESS, 3)).state == b"one"


async def test_the_last_of_several_commits_stays(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    for state in (b"one", b"two", b"three"):
        await store.commit(Commit(address=ADDRESS, epoch=1, state=state))
    assert (await store.open(ADDRESS, 1)).state == b"three"


async def test_a_commit_without_state_leaves_the_state(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(address=ADDRESS, epoch=1, state=b"one"))
    await store.commit(Commit(address=ADDRESS, epoch=1))
    assert (await store.open(ADDRESS, 1)).state == b"one"


async def test_a_commit_without_state_is_fenced_too(store: LocalStore) -> None:
    await store.open(ADDRESS, 2)
    with pytest.raises(Fenced):
        await store.commit(Commit(address=ADDRESS, epoch=1))


async def test_an_empty_state_is_a_state(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(address=ADDRESS, epoch=1, state=b""))
    assert (await store.open(ADDRESS, 1)).state == b""


async def test_a_state_may_be_large_and_hold_every_byte(store: LocalStore) -> None:
    state = bytes(range(256)) * 8192  # 2 MiB
    await store.open(ADDRESS, 1)
    await store.commit(Commit(address=ADDRESS, epoch=1, state=state))
    assert (await store.open(ADDRESS, 1)).state == state


@pytest.mark.parametrize(
    "address", ["session-ключ", "session-a b", "session-'; DROP TABLE actors; --", "a-" + "é" * 128]
)
async def test_any_address_is_its_own(store: LocalStore, address: str) -> None:
    for number, other in enumerate((address, address.upper(), address + "x")):
        await store.open(other, 1)
        await store.commit(Commit(address=other, epoch=1, state=bytes([number])))
    assert (await store.open(address, 1)).state == b"\0"


async def test_an_equal_epoch_may_open_again(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"one"))
    assert (await (await connect()).open(ADDRESS, 7)).state == b"one"
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"two"))


async def test_an_equal_epoch_of_another_host_cannot_open(store: LocalStore, connect: Connect) -> None:
    """A directory that lost its past gives an epoch twice: the two must not both be able to commit."""
    other = await connect()
    await store.open(ADDRESS, 7, "a.1")
    for host in ("b.1", ""):
        with pytest.raises(Fenced) as refusal:
            await other.open(ADDRESS, 7, host)
        assert (refusal.value.address, refusal.value.epoch, refusal.value.stored) == (ADDRESS, 7, 7)
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"still mine"))
    assert (await store.open(ADDRESS, 7, "a.1")).state == b"still mine"


async def test_an_equal_epoch_whose_activation_has_gone_is_free(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 7, "a.1")
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"one", asleep=True))
    assert (await (await connect()).open(ADDRESS, 7, "b.1")).state == b"one"
    with pytest.raises(Fenced):
        await store.open(ADDRESS, 7, "a.1")


async def test_a_lower_epoch_cannot_open(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 7)
    with pytest.raises(Fenced) as refusal:
        await (await connect()).open(ADDRESS, 6)
    assert (refusal.value.address, refusal.value.epoch, refusal.value.stored) == (ADDRESS, 6, 7)
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"still mine"))


@pytest.mark.parametrize("epoch", [6, 8])
async def test_only_the_highest_epoch_commits(store: LocalStore, epoch: int) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"one"))
    with pytest.raises(Fenced) as refusal:
        await store.commit(Commit(address=ADDRESS, epoch=epoch, state=b"two"))
    assert (refusal.value.epoch, refusal.value.stored) == (epoch, 7)
    assert (await store.open(ADDRESS, 7)).state == b"one"


async def test_an_address_that_was_never_opened_takes_no_commit(store: LocalStore) -> None:
    with pytest.raises(Fenced) as refusal:
        await store.commit(Commit(address=ADDRESS, epoch=1, state=b"one"))
    assert refusal.value.stored == 0
    assert await store.open(ADDRESS, 1) == Opened()


async def test_equal_operations_are_each_answered(store: LocalStore) -> None:
    await asyncio.gather(*(store.open(ADDRESS, 1) for _ in range(5)))
    await asyncio.gather(*(store.commit(Commit(address=ADDRESS, epoch=1, state=b"one")) for _ in range(5)))
    assert [(await found).state for found in [store.open(ADDRESS, 1) for _ in range(5)]] == [b"one"] * 5


async def test_epochs_are_as_large_as_etcd_revisions(store: LocalStore) -> None:
    highest = 2**63 - 1
    await store.open(ADDRESS, highest)
    await store.commit(Commit(address=ADDRESS, epoch=highest, state=b"one"))
    with pytest.raises(Fenced):
        await store.open(ADDRESS, highest - 1)


async def test_a_superseded_owner_changes_nothing(store: LocalStore, connect: Connect) -> None:
    old, new = store, await connect()
    await old.open(ADDRESS, 1)
    await old.commit(Commit(address=ADDRESS, epoch=1, state=b"by the old"))
    assert (await new.open(ADDRESS, 2)).state == b"by the old"
    for attempt in (old.commit(Commit(address=ADDRESS, epoch=1, state=b"zombie")), old.open(ADDRESS, 1)):
        with pytest.raises(Fenced) as refusal:
            await attempt
        assert refusal.value.stored == 2
    await new.commit(Commit(address=ADDRESS, epoch=2, state=b"by the new"))
    assert (await new.open(ADDRESS, 2)).state == b"by the new"


async def test_two_owners_in_a_race(store: LocalStore, connect: Connect) -> None:
    """Owners take the address from one another while commits are under way: none is lost, none comes late."""
    accepted: list[bytes] = []

    async def own(handle: LocalStore, epochs: range) -> None:
        for epoch in epochs:
            try:
                state = (await handle.open(ADDRESS, epoch)).state
                for number in range(3):
                    previous, state = state, b"%d.%d" % (epoch, number)
                    await handle.commit(Commit(address=ADDRESS, epoch=epoch, state=state))
                    accepted.append((previous or b"") + b">" + state)
            except Fenced:
                continue  # the other was faster

    await asyncio.gather(own(store, range(1, 41, 2)), own(await connect(), range(2, 42, 2)))
    # Each state that an owner saw when it opened, or wrote itself, is the one before: a chain without a fork.
    parents = [entry.split(b">")[0] for entry in accepted]
    assert len(parents) == len(set(parents))


async def test_operations_of_one_address_keep_their_order(store: LocalStore) -> None:
    opened = asyncio.create_task(store.open(ADDRESS, 1))
    commits = [
        asyncio.create_task(store.commit(Commit(address=ADDRESS, epoch=1, state=b"%d" % number)))
        for number in range(100)
    ]
    reopened = asyncio.create_task(store.open(ADDRESS, 2))
    late = asyncio.create_task(store.commit(Commit(address=ADDRESS, epoch=1, state=b"late")))
    assert await opened == Opened()
    await asyncio.gather(*commits)
    assert (await reopened).state == b"99"
    with pytest.raises(Fenced):
        await late


async def test_a_fenced_operation_does_not_disturb_its_neighbours(store: LocalStore) -> None:
    addresses = [f"session-{number}" for number in range(50)]
    await asyncio.gather(*(store.open(address, 2) for address in addresses))
    outcomes = await asyncio.gather(
        *(
            store.commit(Commit(address=address, epoch=1 + number % 2, state=b"new"))
            for number, address in enumerate(addresses)
        ),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Fenced, type(None)] * 25
    states = await asyncio.gather(*(store.open(address, 2) for address in addresses))
    assert [found.state for found in states] == [None, b"new"] * 25


async def test_cancelling_neither_undoes_nor_prevents(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    task = asyncio.create_task(store.commit(Commit(address=ADDRESS, epoch=1, state=b"one")))
    await asyncio.sleep(0)  # the call has been made, not yet answered
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await store.open(ADDRESS, 1)).state == b"one"


async def test_the_era_starts_at_0_and_never_falls(store: LocalStore, connect: Connect) -> None:
    assert await store.raise_era(0) == 0
    assert await store.raise_era(5) == 5
    assert await store.raise_era(3) == 5
    assert await (await connect()).raise_era(0) == 5


async def test_the_era_is_not_an_epoch(store: LocalStore) -> None:
    await store.raise_era(100)
    assert await store.open(ADDRESS, 1) == Opened()


async def test_the_id_belongs_to_the_store(connect: Connect, new_place: NewPlace) -> None:
    first, second = await connect(), await connect()
    other = await new_place().open()
    assert first.id == second.id != other.id
    assert len(first.id) >= 16
    await other.close()


async def test_what_was_stored_is_there_after_reopening(new_place: NewPlace) -> None:
    place = new_place()
    before = await place.open()
    await before.open(ADDRESS, 7)
    await before.commit(Commit(address=ADDRESS, epoch=7, state=b"one"))
    await before.raise_era(3)
    await before.close()
    after = await place.open()
    assert after.id == before.id
    with pytest.raises(Fenced):
        await after.open(ADDRESS, 6)
    assert (await after.open(ADDRESS, 7)).state == b"one"
    assert await after.raise_era(0) == 3
    await after.close()


async def test_a_closed_store_is_unavailable(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.close()
    await store.close()
    for attempt in (
        store.open(ADDRESS, 1),
        store.commit(Commit(address=ADDRESS, epoch=1, state=b"one")),
        store.read(ADDRESS, b"", b"\xff", limit=1),
        store.due(0.0, hosts=(), limit=1),
        store.flagged(limit=1),
        store.state(ADDRESS),
        store.raise_era(1),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await attempt


async def test_closing_finishes_what_was_begun(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 1)
    commits = [
        asyncio.create_task(store.commit(Commit(address=ADDRESS, epoch=1, state=b"%d" % number)))
        for number in range(50)
    ]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(*commits)
    assert (await (await connect()).open(ADDRESS, 1)).state == b"49"


async def test_closing_one_handle_leaves_the_other(store: LocalStore, connect: Connect) -> None:
    other = await connect()
    await store.close()
    assert await other.open(ADDRESS, 1) == Opened()


async def test_statistics_count_what_this_handle_did(store: LocalStore) -> None:
    before = store.statistics()
    assert (before.operations, before.transactions, before.largest_group) == (0, 0, 0)
    await store.open(ADDRESS, 2)
    with pytest.raises(Fenced):
        await store.open(ADDRESS, 1)
    after = store.statistics()
    assert (after.operations, after.transactions, after.largest_group) == (2, 2, 1)
    await store.state(ADDRESS)
    await store.read(ADDRESS, b"", b"\xff", limit=1)
    assert store.statistics() == after  # reading needs no transaction of the writer


async def test_a_store_of_one_may_be_locked(store: LocalStore) -> None:
    await store.lock_exclusively()
    await store.lock_exclusively()
    assert await store.open(ADDRESS, 1) == Opened()
