"""Reading operations: ranges of records, states, flagged records. They need no epoch and no owner."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from actors.ports import Commit
from cluster.store import LocalStore

Connect = Callable[[], Awaitable[LocalStore]]
ADDRESS = "session-42"
KEYS = [b"\0", b"a", b"a\0", b"b", b"\x7f", b"\x80", b"\x80\0", b"\x81", b"\xff"]
EVERYTHING = (b"", b"\xff" * 701)


async def put(store: LocalStore, address: str, records: dict[bytes, bytes]) -> None:
    await store.open(address, 1)
    await store.commit(Commit(address=address, epoch=1, put=records))


@pytest.fixture
async def filled(store: LocalStore) -> LocalStore:
    """A store in which the address has a record for each key, and its neighbours have some, too."""
    for address in ("session-41", "session-42x"):
        await put(store, address, {b"a": b"another's", b"\x05": b"another's"})
    await put(store, ADDRESS, {key: b"value of " + key for key in reversed(KEYS)})
    return store


def values(*keys: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, b"value of " + key) for key in keys]


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (*EVERYTHING, KEYS),
        (b"a", b"b", [b"a", b"a\0"]),
        (b"a", b"b\0", [b"a", b"a\0", b"b"]),
        (b"a\0", b"a\1", [b"a\0"]),
        (b"\x7f", b"\x81", [b"\x7f", b"\x80", b"\x80\0"]),
        (b"\x80", b"\xff", [b"\x80", b"\x80\0", b"\x81"]),
        (b"c", b"d", []),
        (b"a", b"a", []),
        (b"b", b"a", []),
        (b"\xff\0", b"\xff\xff", []),
    ],
)
async def test_a_range_has_its_first_but_not_its_last(
    filled: LocalStore, first: bytes, last: bytes, found: list[bytes]
) -> None:
    assert await filled.read(ADDRESS, first, last, limit=100) == values(*found)
    assert await filled.read(ADDRESS, first, last, limit=100, newest=True) == values(*found)


@pytest.mark.parametrize("limit", range(len(KEYS) + 2))
async def test_limits_and_the_newest(filled: LocalStore, limit: int) -> None:
    assert await filled.read(ADDRESS, *EVERYTHING, limit=limit) == values(*KEYS[:limit])
    newest = await filled.read(ADDRESS, *EVERYTHING, limit=limit, newest=True)
    assert newest == values(*KEYS[max(len(KEYS) - limit, 0) :])


async def test_paging_through_a_range(filled: LocalStore) -> None:
    found: list[bytes] = []
    first = b""
    while page := await filled.read(ADDRESS, first, EVERYTHING[1], limit=2):
        found += [key for key, _ in page]
        first = found[-1] + b"\0"
    assert found == KEYS


async def test_an_unknown_address_has_nothing_to_read(filled: LocalStore) -> None:
    assert await filled.read("session-4", *EVERYTHING, limit=10) == []
    assert await filled.state("session-4") is None
    await filled.open("session-4", 1)
    assert await filled.state("session-4") is None


async def test_reading_many_and_large_records(store: LocalStore) -> None:
    written = {b"\x80%05d" % number: bytes([number % 256]) * (number % 100 * 100) for number in range(2_000)}
    await put(store, ADDRESS, written)
    assert await store.read(ADDRESS, *EVERYTHING, limit=10_000) == sorted(written.items())
    assert await store.read(ADDRESS, *EVERYTHING, limit=700, newest=True) == sorted(written.items())[-700:]


async def test_the_state_is_the_last_committed_one(store: LocalStore, connect: Connect) -> None:
    await store.open(ADDRESS, 1)
    for state in (b"one", b"", bytes(range(256)) * 4096):
        await store.commit(Commit(address=ADDRESS, epoch=1, state=state))
        assert await store.state(ADDRESS) == state
        assert await (await connect()).state(ADDRESS) == state
    await store.open(ADDRESS, 2)
    assert await store.state(ADDRESS) == state


async def test_every_read_sees_what_any_handle_was_told(store: LocalStore, connect: Connect) -> None:
    other = await connect()
    await other.state(ADDRESS)  # has read before
    await store.open(ADDRESS, 1)
    for number in range(50):
        value = b"%d" % number
        await store.commit(Commit(address=ADDRESS, epoch=1, state=value, put={b"\x05": value}, wake=float(number)))
        for handle in (store, other):
            assert await handle.state(ADDRESS) == value
            assert await handle.read(ADDRESS, b"\x05", b"\x06", limit=1) == [(b"\x05", value)]
            assert await handle.flagged(limit=1) == [(ADDRESS, b"\x05", value)]
            assert [due.wake for due in await handle.due(99.0, hosts=(), limit=1)] == [number]


async def test_reads_beside_each_other_and_a_cancelled_one(filled: LocalStore) -> None:
    tasks = [asyncio.create_task(filled.read(ADDRESS, *EVERYTHING, limit=number + 1)) for number in range(9)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        # A store that answers during the call has answered before the cancelling.
        assert outcome == values(*KEYS[: number + 1]) or (number == 3 and isinstance(outcome, asyncio.CancelledError))
    assert await filled.read(ADDRESS, *EVERYTHING, limit=1) == values(KEYS[0])


async def test_cancelling_the_first_read_leaves_the_others(store: LocalStore) -> None:
    await put(store, ADDRESS, {b"a": b"1"})
    for _ in range(3):
        task = asyncio.create_task(store.state(ADDRESS))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await store.read(ADDRESS, *EVERYTHING, limit=1) == [(b"a", b"1")]


async def test_closing_beside_reads_answers_them(filled: LocalStore) -> None:
    reads = [asyncio.create_task(filled.read(ADDRESS, *EVERYTHING, limit=1)) for _ in range(5)]
    await asyncio.sleep(0)
    await filled.close()
    assert await asyncio.gather(*reads) == [values(KEYS[0])] * 5


async def test_flagged_records_of_all_addresses_by_address_and_key(store: LocalStore) -> None:
    keys = [b"\4\xff", b"\5", b"\5\0", b"\5\xff\xff", b"\6", b"\x80\5"]
    addresses = ["b-1", "a-é", "a-z", "a-2", "a-10", "a-\U0001f600"]
    for address in addresses:
        await put(store, address, {key: address.encode() + key for key in keys})
    found = await store.flagged(limit=100)
    assert found == [(address, key, address.encode() + key) for address in sorted(addresses) for key in keys[1:4]]


async def test_flagged_pages(store: LocalStore) -> None:
    expected = []
    for number in range(5):
        address = f"session-{number}"
        flags = {b"\5%d" % flag: b"%d" % flag for flag in range(number)}
        await put(store, address, {b"a": b"", **flags})
        expected += [(address, key, value) for key, value in flags.items()]
    for size in (1, 2, 3, 100):
        found: list[tuple[str, bytes, bytes]] = []
        after = ("", b"")
        while page := await store.flagged(after=after, limit=size):
            assert len(page) <= size
            found += page
            after = page[-1][:2]
        assert found == expected
    assert await store.flagged(after=("session-3", b"\5\x31\0"), limit=1) == [("session-3", b"\0052", b"2")]
    assert await store.flagged(after=("session-2x", b""), limit=1) == [("session-3", b"\0050", b"0")]
    assert await store.flagged(limit=0) == []


async def test_what_is_no_longer_flagged_is_not_listed(store: LocalStore) -> None:
    for number in range(4):
        await put(store, f"session-{number}", {b"\5a": b"%d" % number, b"\x05b": b""})
    await store.commit(Commit(address="session-0", epoch=1, drop=[b"\5a"]))
    await store.commit(Commit(address="session-1", epoch=1, cut=[(b"\5", b"\6")]))
    await store.commit(Commit(address="session-2", epoch=1, erase=True))
    await store.commit(Commit(address="session-3", epoch=1, put={b"\5a": b"new"}))
    assert await store.flagged(limit=10) == [
        ("session-0", b"\5b", b""),
        ("session-3", b"\5a", b"new"),
        ("session-3", b"\5b", b""),
    ]
