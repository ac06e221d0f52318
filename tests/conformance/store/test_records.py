"""Records of an address: what a commit does with them, in which order, and which of them ``open`` returns."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from actors.ports import Commit, Fenced, Opened
from cluster.store import LocalStore

Connect = Callable[[], Awaitable[LocalStore]]
ADDRESS = "session-42"
EVERYTHING = (b"", b"\xff" * 701)
MIB = 1024 * 1024

turn = partial(Commit, address=ADDRESS, epoch=1)
Records = dict[bytes, bytes]


@pytest.fixture
async def owned(store: LocalStore) -> LocalStore:
    """A store in which the address is open with epoch 1."""
    await store.open(ADDRESS, 1)
    return store


async def records(store: LocalStore, address: str = ADDRESS) -> Records:
    return dict(await store.read(address, *EVERYTHING, limit=10_000))


async def test_a_new_address_has_no_records(owned: LocalStore) -> None:
    assert await owned.open(ADDRESS, 1) == Opened(None, {})
    assert await records(owned) == {}


async def test_open_returns_the_hot_records_by_key(owned: LocalStore, connect: Connect) -> None:
    hot = {b"\0": b"a", b"\0\0": b"b", b"a": b"c", b"a\xff": b"d", b"b": b"e", b"\x7f" + b"\xff" * 699: b"f"}
    cold = {b"\x80": b"g", b"\x80\0": b"h", b"\xff": b"i", b"\xff" * 700: b"j"}
    shuffled = dict(sorted((hot | cold).items(), key=lambda item: item[1][0] * 7 % 5))
    await owned.commit(turn(state=b"state", put=shuffled))
    for store in (owned, await connect()):
        opened = await store.open(ADDRESS, 1)
        assert opened.state == b"state"
        assert list(opened.records.items()) == list(hot.items())
    assert await records(owned) == hot | cold


async def test_records_need_no_state(owned: LocalStore) -> None:
    await owned.commit(turn(put={b"key": b"value"}))
    assert await owned.open(ADDRESS, 1) == Opened(None, {b"key": b"value"})


async def test_a_record_is_replaced_by_a_later_one(owned: LocalStore) -> None:
    for value in (b"one", b"two", b""):
        await owned.commit(turn(put={b"key": value}))
    assert await records(owned) == {b"key": b""}


async def test_an_empty_value_is_a_record(owned: LocalStore) -> None:
    await owned.commit(turn(put={b"hot": b"", b"\x80cold": b""}))
    assert (await owned.open(ADDRESS, 1)).records == {b"hot": b""}
    assert await records(owned) == {b"hot": b"", b"\x80cold": b""}


async def test_keys_and_values_hold_every_byte(owned: LocalStore) -> None:
    every_byte = bytes(range(256))
    written = {bytes([number]): every_byte for number in range(256)} | {every_byte: every_byte, b"'\"%s?": b"quoted"}
    await owned.commit(turn(put=written))
    assert await records(owned) == written
    assert (await owned.open(ADDRESS, 1)).records == {key: written[key] for key in written if key < b"\x80"}


async def test_drop_removes_what_is_there(owned: LocalStore) -> None:
    await owned.commit(turn(put={b"a": b"1", b"b": b"2", b"\x80": b"3"}))
    await owned.commit(turn(drop=[b"a", b"\x80", b"missing", b"a"]))
    assert await records(owned) == {b"b": b"2"}


async def test_cut_removes_from_the_first_up_to_but_not_including_the_second(owned: LocalStore) -> None:
    await owned.commit(turn(put=dict.fromkeys((b"a", b"b", b"b\x00", b"c", b"d", b"\x80", b"\xff", b"\xff\xff"), b"")))
    await owned.commit(turn(cut=[(b"b", b"c")]))
    assert list(await records(owned)) == [b"a", b"c", b"d", b"\x80", b"\xff", b"\xff\xff"]
    await owned.commit(turn(cut=[(b"d", b"d"), (b"d", b"a"), (b"c", b"c\0"), (b"\xff", b"\xff\xff")]))
    assert list(await records(owned)) == [b"a", b"d", b"\x80", b"\xff\xff"]
    await owned.commit(turn(cut=[EVERYTHING]))
    assert await records(owned) == {}


async def test_erase_removes_everything_but_the_epoch(store: LocalStore) -> None:
    await store.open(ADDRESS, 7)
    await store.commit(Commit(address=ADDRESS, epoch=7, state=b"one", put={b"a": b"", b"\x80": b""}, wake=1.0))
    await store.commit(Commit(address=ADDRESS, epoch=7, erase=True))
    with pytest.raises(Fenced):
        await store.open(ADDRESS, 6)
    assert await store.open(ADDRESS, 7) == Opened()
    assert await records(store) == {}
    assert await store.state(ADDRESS) is None
    assert await store.due(1.0, hosts=(), limit=10) == []


async def test_erasing_nothing_twice_is_fine(owned: LocalStore) -> None:
    await owned.commit(turn(erase=True))
    await owned.commit(turn(erase=True))
    await owned.commit(turn(state=b"again"))
    assert (await owned.open(ADDRESS, 1)).state == b"again"


async def test_the_order_within_a_commit_is_erase_cut_drop_put(owned: LocalStore) -> None:
    await owned.commit(turn(state=b"old", put={b"a": b"old", b"b": b"old", b"c": b"old", b"d": b"old"}, wake=5.0))
    await owned.commit(turn(put={b"a": b"new", b"b": b"new"}, drop=[b"a", b"c"], cut=[(b"b", b"c"), (b"d", b"e")]))
    assert await owned.open(ADDRESS, 1) == Opened(b"old", {b"a": b"new", b"b": b"new"})
    await owned.commit(turn(erase=True, cut=[EVERYTHING], drop=[b"a"], put={b"a": b"newer"}, state=b"new", wake=6.0))
    assert await owned.open(ADDRESS, 1) == Opened(b"new", {b"a": b"newer"})
    assert [due.wake for due in await owned.due(9.0, hosts=(), limit=10)] == [6.0]


async def test_commits_that_are_called_together_keep_their_order(owned: LocalStore) -> None:
    effects: list[Commit] = [
        turn(put={b"a": b"1", b"b": b"1", b"\x80": b"1"}, state=b"1"),
        turn(drop=[b"a"], put={b"b": b"2"}),
        turn(put={b"a": b"3"}, drop=[b"b"]),
        turn(cut=[(b"\x80", b"\x81")]),
        turn(put={b"\x80": b"5", b"c": b"5"}, state=b"5"),
        turn(erase=True, put={b"d": b"6"}),
        turn(put={b"c": b"7", b"e": b"7"}, drop=[b"d"]),
    ]
    await asyncio.gather(*(owned.commit(commit) for commit in effects))
    assert await owned.open(ADDRESS, 1) == Opened(None, {b"c": b"7", b"e": b"7"})
    assert await records(owned) == {b"c": b"7", b"e": b"7"}


@pytest.mark.parametrize(
    ("effects", "left"),
    [
        ([turn(put={b"a": b"2", b"b": b"2"}), turn(cut=[(b"a", b"b")])], {b"b": b"2", b"c": b"1"}),
        ([turn(cut=[(b"a", b"b")]), turn(put={b"a": b"2"})], {b"a": b"2", b"b": b"1", b"c": b"1"}),
        ([turn(drop=[b"a"]), turn(drop=[b"b"])], {b"c": b"1"}),
        ([turn(drop=[b"a"]), turn(put={b"a": b"2"})], {b"a": b"2", b"b": b"1", b"c": b"1"}),
        ([turn(put={b"a": b"2"}), turn(drop=[b"a"])], {b"b": b"1", b"c": b"1"}),
        ([turn(drop=[b"a"]), turn(put={b"a": b"2"}), turn(drop=[b"a"])], {b"b": b"1", b"c": b"1"}),
        ([turn(put={b"d": b"2"}), turn(erase=True)], {}),
        ([turn(erase=True), turn(put={b"a": b"2"}), turn(cut=[(b"b", b"c")])], {b"a": b"2"}),
        ([turn(erase=True, put={b"a": b"2"}), turn(drop=[b"a"])], {}),
    ],
)
async def test_what_commits_of_one_group_leave_of_stored_records(
    owned: LocalStore, effects: list[Commit], left: Records
) -> None:
    await owned.commit(turn(put={b"a": b"1", b"b": b"1", b"c": b"1"}))
    await asyncio.gather(*(owned.commit(commit) for commit in [turn(), *effects]))
    assert await records(owned) == left


@pytest.mark.parametrize("epoch", [1, 3])
async def test_nothing_of_a_fenced_commit_is_applied(store: LocalStore, epoch: int) -> None:
    await store.open(ADDRESS, 2, "a.1")
    await store.commit(Commit(address=ADDRESS, epoch=2, state=b"one", put={b"a": b"1", b"\x80": b"1"}, wake=5.0))
    effects: tuple[Callable[..., Commit], ...] = (
        partial(Commit, put={b"a": b"2", b"b": b"2"}),
        partial(Commit, drop=[b"a"]),
        partial(Commit, cut=[EVERYTHING]),
        partial(Commit, erase=True),
        partial(Commit, wake=1.0),
        partial(Commit, wake=None),
        partial(Commit, asleep=True),
        partial(Commit, state=b"two", put={b"a": b"2"}, drop=[b"\x80"], cut=[EVERYTHING], erase=True, wake=1.0),
    )
    outcomes = await asyncio.gather(
        *(store.commit(effect(address=ADDRESS, epoch=epoch)) for effect in effects), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Fenced] * len(effects)
    assert await store.state(ADDRESS) == b"one"
    assert await records(store) == {b"a": b"1", b"\x80": b"1"}
    assert [due.wake for due in await store.due(9.0, hosts=(), limit=10)] == [5.0]
    assert await store.due(9.0, hosts=["a.1"], limit=10) == []


async def test_a_fenced_commit_among_good_ones_of_one_address(owned: LocalStore) -> None:
    outcomes = await asyncio.gather(
        owned.commit(turn(put={b"a": b"1"})),
        owned.commit(turn(epoch=2, put={b"a": b"2"}, drop=[b"b"])),
        owned.commit(turn(put={b"b": b"3"})),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), Fenced, type(None)]
    assert await records(owned) == {b"a": b"1", b"b": b"3"}


@pytest.mark.parametrize("address", ["session-ключ", "session-a b", "session-'; DROP TABLE records; --"])
async def test_records_belong_to_one_address(store: LocalStore, address: str) -> None:
    for number, other in enumerate((address, address.upper(), address + "x")):
        await store.open(other, 1)
        await store.commit(Commit(address=other, epoch=1, put={b"a": bytes([number]), b"\x80": bytes([number])}))
    assert await records(store, address) == {b"a": b"\0", b"\x80": b"\0"}
    await store.commit(Commit(address=address, epoch=1, cut=[EVERYTHING], put={b"c": b""}))
    assert await records(store, address.upper()) == {b"a": b"\1", b"\x80": b"\1"}
    await store.commit(Commit(address=address + "x", epoch=1, erase=True))
    assert await records(store, address.upper()) == {b"a": b"\1", b"\x80": b"\1"}
    assert await store.open(address, 1) == Opened(None, {b"c": b""})


async def test_many_addresses_at_once(store: LocalStore) -> None:
    addresses = [f"session-{number}" for number in range(1500)]
    await asyncio.gather(*(store.open(address, 1) for address in addresses))
    for number in range(2):
        await asyncio.gather(
            *(
                store.commit(
                    Commit(
                        address=address,
                        epoch=1,
                        state=b"%d" % number,
                        put={b"a%d" % number: address.encode(), b"\x80": b"%d" % number},
                        drop=[b"a%d" % (number - 1)],
                    )
                )
                for address in addresses
            )
        )
    opened = await asyncio.gather(*(store.open(address, 2) for address in addresses))
    assert opened == [Opened(b"1", {b"a1": address.encode()}) for address in addresses]
    assert await records(store, addresses[-1]) == {b"a1": addresses[-1].encode(), b"\x80": b"1"}


async def test_a_commit_of_many_records(owned: LocalStore) -> None:
    written = {b"%05d" % number: b"%d" % number for number in range(5_000)}
    await owned.commit(turn(put=written))
    assert list((await owned.open(ADDRESS, 1)).records.items()) == sorted(written.items())
    await owned.commit(turn(drop=list(written)[1:]))
    assert (await owned.open(ADDRESS, 1)).records == {b"00000": b"0"}


async def test_opening_many_of_very_unequal_size_at_once(store: LocalStore) -> None:
    expected = {
        f"session-{number}": {b"%d" % record: bytes([number]) * (number**3) for record in range(number % 4)}
        for number in range(90)
    }
    await asyncio.gather(*(store.open(address, 1) for address in expected))
    await asyncio.gather(
        *(store.commit(Commit(address=address, epoch=1, put=put)) for address, put in expected.items())
    )
    opened = await asyncio.gather(*(store.open(address, 2) for address in expected))
    for address, found in zip(expected, opened, strict=True):
        assert found.records == expected[address], address


@pytest.mark.parametrize("key", [b"hot", b"\x80cold"])
async def test_a_value_of_64_mib(owned: LocalStore, key: bytes) -> None:
    value = bytes(range(256)) * (64 * MIB // 256)
    await owned.commit(turn(put={key: value, b"small": b"1"}))
    # Compared apart from the assert, which would print both.
    same = dict(await owned.read(ADDRESS, *EVERYTHING, limit=10)) == {key: value, b"small": b"1"}
    assert same
    same = (await owned.open(ADDRESS, 1)).records.get(b"hot", value) == value
    assert same
    await owned.commit(turn(drop=[key]))
    assert await records(owned) == {b"small": b"1"}


@pytest.mark.parametrize(
    "effects",
    [
        {"put": {b"": b"value"}},
        {"put": {b"k" * 701: b"value"}},
        {"put": {b"key": bytes(128 * MIB + 1)}},
        {"state": bytes(128 * MIB + 1)},
        {"drop": [b""]},
        {"drop": [b"k" * 701]},
        {"wake": float("nan")},
        {"wake": float("inf")},
        {"wake": float("-inf")},
        {"epoch": -1},
        {"epoch": 2**63},
        {"address": "session-\ud800"},
    ],
    ids=lambda effects: next(iter(effects)),
)
async def test_what_no_store_takes_fails_its_caller_alone(owned: LocalStore, effects: dict[str, object]) -> None:
    good, bad = turn(put={b"good": b"1"}), turn(**({"put": {b"bad": b"1"}} | effects))  # type: ignore[arg-type]
    outcomes = await asyncio.gather(owned.commit(good), owned.commit(bad), return_exceptions=True)
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, True]
    assert await records(owned) == {b"good": b"1"}


async def test_a_key_of_700_bytes_and_a_value_of_128_mib_are_taken(owned: LocalStore) -> None:
    await owned.commit(turn(put={b"k" * 700: bytes(128 * MIB)}))
    ((key, value),) = await owned.read(ADDRESS, *EVERYTHING, limit=10)
    assert (key, len(value), value.count(0)) == (b"k" * 700, 128 * MIB, 128 * MIB)


async def test_a_cancelled_commit_takes_effect_whole(owned: LocalStore) -> None:
    task = asyncio.create_task(owned.commit(turn(state=b"one", put={b"a": b"1", b"\x80": b"1"})))
    await asyncio.sleep(0)  # the call has been made, not yet answered
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await owned.open(ADDRESS, 1) == Opened(b"one", {b"a": b"1"})


async def test_closing_finishes_the_records_of_what_was_begun(owned: LocalStore, connect: Connect) -> None:
    commits = [asyncio.create_task(owned.commit(turn(put={b"%d" % number: b""}))) for number in range(50)]
    await asyncio.sleep(0)
    await owned.close()
    await asyncio.gather(*commits)
    assert len(await records(await connect())) == 50
