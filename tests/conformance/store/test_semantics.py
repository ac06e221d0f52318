"""What each method of the Store port promises, one promise a test."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors.ports import Commit, Fenced, StoreUnavailable
from cluster.store import LocalStore
from tests.conformance.store.adapters import NewPlace

Connect = Callable[[], Awaitable[LocalStore]]
ADDRESS = "session-42"


async def test_a_new_address_has_no_state(store: LocalStore) -> None:
    assert await store.open(ADDRESS, 1) is None


async def test_a_committed_state_is_what_the_next_open_returns(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(ADDRESS, 1, b"one"))
    assert await store.open(ADDRESS, 2) == b"one"
    assert await (await connect()).open(ADDRESS, 3) == b"one"


async def test_the_last_of_several_commits_stays(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    for state in (b"one", b"two", b"three"):
        await store.commit(Commit(ADDRESS, 1, state))
    assert await store.open(ADDRESS, 1) == b"three"


async def test_a_commit_without_state_leaves_the_state(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(ADDRESS, 1, b"one"))
    await store.commit(Commit(ADDRESS, 1))
    assert await store.open(ADDRESS, 1) == b"one"


async def test_a_commit_without_state_is_fenced_too(store: LocalStore) -> None:
    await store.open(ADDRESS, 2)
    with pytest.raises(Fenced):
        await store.commit(Commit(ADDRESS, 1))


async def test_an_empty_state_is_a_state(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(ADDRESS, 1, b""))
    assert await store.open(ADDRESS, 1) == b""


async def test_a_state_may_be_large_and_hold_every_byte(store: LocalStore) -> None:
    state = bytes(range(256)) * 8192  # 2 MiB
    await store.open(ADDRESS, 1)
    await store.commit(Commit(ADDRESS, 1, state))
    assert await store.open(ADDRESS, 1) == state


@pytest.mark.parametrize(
    "address", ["session-ключ", "session-a b", "session-'; DROP TABLE actors; --", "a-" + "é" * 128]
)
async def test_any_address_is_its_own(store: LocalStore, address: str) -> None:
    for number, other in enumerate((address, address.upper(), address + "x")):
        await store.open(other, 1)
        await store.commit(Commit(other, 1, bytes([number])))
    assert await store.open(address, 1) == b"\0"


async def test_an_equal_epoch_may_open_again(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(ADDRESS, 7, b"one"))
    assert await (await connect()).open(ADDRESS, 7) == b"one"
    await store.commit(Commit(ADDRESS, 7, b"two"))


async def test_a_lower_epoch_cannot_open(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 7)
    with pytest.raises(Fenced) as refusal:
        await (await connect()).open(ADDRESS, 6)
    assert (refusal.value.address, refusal.value.epoch, refusal.value.stored) == (ADDRESS, 6, 7)
    await store.commit(Commit(ADDRESS, 7, b"still mine"))


@pytest.mark.parametrize("epoch", [6, 8])
async def test_only_the_highest_epoch_commits(store: LocalStore, epoch: int) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(ADDRESS, 7, b"one"))
    with pytest.raises(Fenced) as refusal:
        await store.commit(Commit(ADDRESS, epoch, b"two"))
    assert (refusal.value.epoch, refusal.value.stored) == (epoch, 7)
    assert await store.open(ADDRESS, 7) == b"one"


async def test_an_address_that_was_never_opened_takes_no_commit(store: LocalStore) -> None:
    with pytest.raises(Fenced) as refusal:
        await store.commit(Commit(ADDRESS, 1, b"one"))
    assert refusal.value.stored == 0
    assert await store.open(ADDRESS, 1) is None


async def test_epochs_are_as_large_as_etcd_revisions(store: LocalStore) -> None:
    highest = 2**63 - 1
    await store.open(ADDRESS, highest)
    await store.commit(Commit(ADDRESS, highest, b"one"))
    with pytest.raises(Fenced):
        await store.open(ADDRESS, highest - 1)


async def test_delete_erases_the_state_and_keeps_the_epoch(store: LocalStore) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(ADDRESS, 7, b"one"))
    await store.delete(ADDRESS, 7)
    with pytest.raises(Fenced):
        await store.open(ADDRESS, 6)
    assert await store.open(ADDRESS, 7) is None


async def test_delete_is_fenced(store: LocalStore) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(ADDRESS, 7, b"one"))
    for epoch in (6, 8):
        with pytest.raises(Fenced):
            await store.delete(ADDRESS, epoch)
    assert await store.open(ADDRESS, 7) == b"one"


async def test_deleting_nothing_twice_is_fine(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.delete(ADDRESS, 1)
    await store.delete(ADDRESS, 1)


async def test_deleting_one_address_leaves_the_others(store: LocalStore) -> None:
    for address in ("session-1", "session-2"):
        await store.open(address, 1)
        await store.commit(Commit(address, 1, address.encode()))
    await store.delete("session-1", 1)
    assert await store.open("session-2", 1) == b"session-2"


async def test_a_deleted_address_can_be_written_again(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.commit(Commit(ADDRESS, 1, b"one"))
    await store.delete(ADDRESS, 1)
    await store.commit(Commit(ADDRESS, 1, b"two"))
    assert await store.open(ADDRESS, 2) == b"two"


async def test_a_superseded_owner_changes_nothing(store: LocalStore, connect: Connect) -> None:
    old, new = store, await connect()
    await old.open(ADDRESS, 1)
    await old.commit(Commit(ADDRESS, 1, b"by the old"))
    assert await new.open(ADDRESS, 2) == b"by the old"
    for attempt in (old.commit(Commit(ADDRESS, 1, b"zombie")), old.delete(ADDRESS, 1), old.open(ADDRESS, 1)):
        with pytest.raises(Fenced) as refusal:
            await attempt
        assert refusal.value.stored == 2
    await new.commit(Commit(ADDRESS, 2, b"by the new"))
    assert await new.open(ADDRESS, 2) == b"by the new"


async def test_two_owners_in_a_race(store: LocalStore, connect: Connect) -> None:
    """Owners take the address from one another while commits are under way: none is lost, none comes late."""
    accepted: list[bytes] = []

    async def own(handle: LocalStore, epochs: range) -> None:
        for epoch in epochs:
            try:
                state = await handle.open(ADDRESS, epoch)
                for number in range(3):
                    previous, state = state, b"%d.%d" % (epoch, number)
                    await handle.commit(Commit(ADDRESS, epoch, state))
                    accepted.append((previous or b"") + b">" + state)
            except Fenced:
                continue  # the other was faster

    await asyncio.gather(own(store, range(1, 41, 2)), own(await connect(), range(2, 42, 2)))
    # Each state that an owner saw when it opened, or wrote itself, is the one before: a chain without a fork.
    parents = [entry.split(b">")[0] for entry in accepted]
    assert len(parents) == len(set(parents))


async def test_operations_of_one_address_keep_their_order(store: LocalStore) -> None:
    opened = asyncio.create_task(store.open(ADDRESS, 1))
    commits = [asyncio.create_task(store.commit(Commit(ADDRESS, 1, b"%d" % number))) for number in range(100)]
    reopened = asyncio.create_task(store.open(ADDRESS, 2))
    late = asyncio.create_task(store.commit(Commit(ADDRESS, 1, b"late")))
    assert await opened is None
    await asyncio.gather(*commits)
    assert await reopened == b"99"
    with pytest.raises(Fenced):
        await late


async def test_a_fenced_operation_does_not_disturb_its_neighbours(store: LocalStore) -> None:
    addresses = [f"session-{number}" for number in range(50)]
    await asyncio.gather(*(store.open(address, 2) for address in addresses))
    outcomes = await asyncio.gather(
        *(store.commit(Commit(address, 1 + number % 2, b"new")) for number, address in enumerate(addresses)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Fenced, type(None)] * 25
    states = await asyncio.gather(*(store.open(address, 2) for address in addresses))
    assert states == [None, b"new"] * 25


async def test_cancelling_neither_undoes_nor_prevents(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    task = asyncio.create_task(store.commit(Commit(ADDRESS, 1, b"one")))
    await asyncio.sleep(0)  # the call has been made, not yet answered
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await store.open(ADDRESS, 1) == b"one"


async def test_the_era_starts_at_0_and_never_falls(store: LocalStore, connect: Connect) -> None:
    assert await store.raise_era(0) == 0
    assert await store.raise_era(5) == 5
    assert await store.raise_era(3) == 5
    assert await (await connect()).raise_era(0) == 5


async def test_the_era_is_not_an_epoch(store: LocalStore) -> None:
    await store.raise_era(100)
    assert await store.open(ADDRESS, 1) is None


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
    await before.commit(Commit(ADDRESS, 7, b"one"))
    await before.raise_era(3)
    await before.close()
    after = await place.open()
    assert after.id == before.id
    with pytest.raises(Fenced):
        await after.open(ADDRESS, 6)
    assert await after.open(ADDRESS, 7) == b"one"
    assert await after.raise_era(0) == 3
    await after.close()


async def test_a_closed_store_is_unavailable(store: LocalStore) -> None:
    await store.open(ADDRESS, 1)
    await store.close()
    await store.close()
    for attempt in (
        store.open(ADDRESS, 1),
        store.commit(Commit(ADDRESS, 1, b"one")),
        store.delete(ADDRESS, 1),
        store.raise_era(1),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await attempt


async def test_closing_finishes_what_was_begun(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 1)
    commits = [asyncio.create_task(store.commit(Commit(ADDRESS, 1, b"%d" % number))) for number in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(*commits)
    assert await (await connect()).open(ADDRESS, 1) == b"49"


async def test_closing_one_handle_leaves_the_other(store: LocalStore, connect: Connect) -> None:
    other = await connect()
    await store.close()
    assert await other.open(ADDRESS, 1) is None


async def test_statistics_count_what_this_handle_did(store: LocalStore) -> None:
    before = store.statistics()
    assert (before.operations, before.transactions, before.largest_group) == (0, 0, 0)
    await store.open(ADDRESS, 2)
    with pytest.raises(Fenced):
        await store.open(ADDRESS, 1)
    after = store.statistics()
    assert (after.operations, after.transactions, after.largest_group) == (2, 2, 1)


async def test_a_store_of_one_may_be_locked(store: LocalStore) -> None:
    await store.lock_exclusively()
    await store.lock_exclusively()
    assert await store.open(ADDRESS, 1) is None
