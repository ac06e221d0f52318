"""Groups: what goes into one, that the outcomes are those of its operations one by one, and that none deadlock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from math import inf
from random import Random
from typing import Any

import pytest
from msgspec import UNSET

from actors.ports import Commit, Fenced, Opened, StoreUnavailable
from cluster.store import PostgresStore
from cluster.store.operations import Open, RaiseEra
from cluster.store.postgres_connection import TryAgain
from cluster.store.postgres_group import GroupRule, MergedCommit, Request
from cluster.store.postgres_session import PostgresSession
from tests.cluster.store.postgres_locks import holding
from tests.conformance.store.postgres_server import PostgresServer, shared_server


@pytest.fixture(scope="session")
def server() -> PostgresServer:
    return shared_server()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    url = server.lend_database()
    yield url
    server.take_back(url)


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open_url(url)
    yield store
    await store.close()


async def together(store: PostgresStore, *calls: Awaitable[object]) -> list[object]:
    """The outcomes of calls that the writer finds in its queue at once."""
    async with store._writer._using:
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)  # they have been submitted
    return await asyncio.gather(*tasks, return_exceptions=True)


def commit_to(address: str, epoch: int = 1, state: bytes | None = None) -> Commit:
    return Commit(address=address, epoch=epoch, state=state)


def test_an_address_is_opened_or_written_by_one_owner_in_one_group() -> None:
    one, two = "session-1", "session-2"
    rule = GroupRule()
    for operation in (commit_to(one), Open(two, 1, ""), commit_to(one), RaiseEra(0), commit_to(one, 1, b"state")):
        assert rule.admits(operation)
    for operation in (commit_to(one, 2), Open(one, 1, ""), Open(two, 1, ""), commit_to(two), RaiseEra(0)):
        assert not rule.admits(operation)


def test_what_a_group_sends_is_sorted_and_said_once() -> None:
    request = Request(
        [
            Commit(address="b-é", epoch=4, state=b"one", put={b"k": b"1", b"l": b"1"}, wake=1.0),
            Commit(address="b-é", epoch=4, state=b"two", drop=[b"k"], put={b"m": b"2"}),
            Commit(address="b-é", epoch=4, asleep=True),
            Open("b-z", 3, "a.1"),
            Commit(address="a-1", epoch=1, state=b"erased", put={b"k": b"3"}),
            Commit(address="a-1", epoch=1, erase=True),
        ]
    )
    assert (request.addresses, request.epochs) == (["a-1", "b-z", "b-é"], [1, 3, 4])
    assert request.hosts == [None, "a.1", None]
    assert request.states == [None, None, b"two"]
    assert request.wakes == [inf, None, 1.0]
    assert (request.erased, request.asleep) == ([True, None, None], [None, None, True])
    assert (request.cut_of, request.cut_first, request.cut_last) == ([1], [b""], [b"\xff" * 701])
    assert (request.dropped_of, request.dropped) == ([3], [b"k"])
    assert list(zip(request.put_of, request.put_keys, request.put_values, strict=True)) == [
        (3, b"l", b"1"),
        (3, b"m", b"2"),
    ]


Rows = tuple[bytes | None, dict[bytes, bytes], float | None, bool]


def applied(before: Rows, commit: Commit | MergedCommit) -> Rows:
    """What the description of ``Commit`` says, word by word."""
    state, records, wake, asleep = (None, {}, None, before[3]) if commit.erase else before
    records = {key: value for key, value in records.items() if not any(a <= key < b for a, b in commit.cut)}
    records = {key: value for key, value in records.items() if key not in commit.drop} | dict(commit.put)
    return (
        state if commit.state is None else commit.state,
        records,
        wake if commit.wake is UNSET else commit.wake,
        asleep or commit.asleep,
    )


def test_merged_commits_are_as_good_as_all_of_them() -> None:
    for seed in range(1000):
        before, commits = any_commits(Random(seed))
        after, merged = before, MergedCommit(epoch=1)
        for commit in commits:
            after = applied(after, commit)
            merged.add(commit)
        assert applied(before, merged) == after, (seed, commits)


def any_commits(randomness: Random) -> tuple[Rows, list[Commit]]:
    keys = [bytes([key]) for key in range(8)]
    commits = [
        Commit(
            address="session-1",
            epoch=1,
            state=randomness.choice((None, b"%d" % number)),
            put=dict.fromkeys(randomness.sample(keys, randomness.randint(0, 3)), b"%d" % number),
            drop=randomness.sample(keys, randomness.randint(0, 2)),
            cut=[(keys[1], keys[4])] if randomness.random() < 0.3 else (),
            erase=randomness.random() < 0.2,
            wake=randomness.choice((UNSET, None, float(number))),
            asleep=randomness.random() < 0.2,
        )
        for number in range(randomness.randint(2, 5))
    ]
    return (b"before", dict.fromkeys(keys, b"before"), 9.0, False), commits


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 512, 1500])
async def test_every_size_of_group(store: PostgresStore, size: int) -> None:
    addresses = [f"session-{number}" for number in range(size)]
    assert await together(store, *(store.open(address, 1) for address in addresses)) == [Opened()] * size
    await together(
        store, *(store.commit(Commit(address=address, epoch=1, state=address.encode())) for address in addresses)
    )
    before = store.statistics()
    states = await together(store, *(store.open(address, 2) for address in addresses))
    assert states == [Opened(address.encode()) for address in addresses]
    assert store.statistics().transactions - before.transactions == -(-size // 64)  # as many as may be opened at once
    await together(store, *(store.commit(Commit(address=address, epoch=2, erase=True)) for address in addresses))
    assert store.statistics().largest_group == min(size, 256)
    assert await together(store, *(store.open(address, 3) for address in addresses)) == [Opened()] * size


async def test_a_group_is_bounded_in_bytes(store: PostgresStore) -> None:
    value = bytes(5 * 1024 * 1024)
    addresses = [f"session-{number}" for number in range(7)]
    await together(store, *(store.open(address, 1) for address in addresses))
    before = store.statistics()
    await together(store, *(store.commit(Commit(address=a, epoch=1, put={b"k": value})) for a in addresses))
    assert store.statistics().transactions - before.transactions == 3


async def test_what_is_large_travels_alone(store: PostgresStore) -> None:
    addresses = [f"session-{number}" for number in range(3)]
    await together(store, *(store.open(address, 1) for address in addresses))
    before = store.statistics()
    large = {b"\x80k": bytes(17 * 1024 * 1024)}
    await together(
        store,
        store.commit(Commit(address=addresses[0], epoch=1, put={b"k": b"small"})),
        store.commit(Commit(address=addresses[1], epoch=1, put=large)),
        store.commit(Commit(address=addresses[2], epoch=1, put={b"k": b"small"})),
    )
    assert store.statistics().transactions - before.transactions == 3


async def test_large_values_get_more_time(store: PostgresStore) -> None:
    session = store._writer._session
    assert session is not None
    await store.open("session-1", 1)
    value = bytes(64 * 1024 * 1024)
    for expected, put in (("7200ms", {b"\x80k": value}), ("4s", {b"\x80l": b""})):
        await store.commit(Commit(address="session-1", epoch=1, put=put))
        assert await session._connection.fetchval("SHOW statement_timeout") == expected
    assert await store.read("session-1", b"\x80", b"\xff", limit=9) == [(b"\x80k", value), (b"\x80l", b"")]


async def test_a_commit_that_is_too_large_is_refused_at_once(store: PostgresStore) -> None:
    await store.open("session-1", 1)
    value = bytes(128 * 1024 * 1024)
    with pytest.raises(ValueError, match=r"a commit of 536,870,916 bytes is too large; up to 536,870,912 can be one"):
        await store.commit(Commit(address="session-1", epoch=1, put={b"%d" % key: value for key in range(4)}))


async def test_what_is_sent_does_not_grow_with_the_group(store: PostgresStore) -> None:
    counts = []
    for size in (1, 200, 600):
        addresses = [f"session-{number}" for number in range(size)]
        await asyncio.gather(*(store.open(address, 1) for address in addresses))
        session = store._writer._session
        assert session is not None
        statements: list[str] = []
        connection: Any = session._connection
        with connection.query_logger(lambda record: statements.append(record.query)):  # noqa: B023
            await together(
                store, *(store.commit(Commit(address=address, epoch=1, state=b"state")) for address in addresses)
            )
        counts.append(len(statements))
    assert counts == [2, 2, 4]  # is it there, and the groups: whoever has just answered is there


@pytest.mark.parametrize("opens", [True, False])
async def test_commits_to_what_was_never_opened_beside_others(
    store: PostgresStore, server: PostgresServer, url: str, opens: bool
) -> None:
    await asyncio.gather(*(store.open(f"session-{number}", 1) for number in (1, 3)))
    calls: list[Awaitable[object]] = [
        store.commit(Commit(address=f"session-{number}", epoch=1, state=b"new", put={b"k": b"v"}))
        for number in range(5)
    ]
    outcomes = await together(store, *calls, *([store.open("session-9", 1)] if opens else []))
    assert [type(outcome) for outcome in outcomes[:5]] == [Fenced, type(None), Fenced, type(None), Fenced]
    assert server.execute("SELECT count(*) FROM agentsilo.actors", url=url) == [2 + opens]
    for number in range(5):
        assert await store.open(f"session-{number}", 1) == (Opened(b"new", {b"k": b"v"}) if number % 2 else Opened())


async def test_a_group_with_everything(store: PostgresStore) -> None:
    await asyncio.gather(*(store.open(f"session-{number}", 2) for number in range(3)))
    await store.commit(Commit(address="session-1", epoch=2, state=b"old", put={b"k": b"old"}, wake=1.0))
    before = store.statistics()
    outcomes = await together(
        store,
        store.commit(Commit(address="session-0", epoch=2, state=b"one", put={b"k": b"1", b"\x80": b"cold"})),
        store.commit(Commit(address="session-0", epoch=2)),
        store.raise_era(7),
        store.commit(Commit(address="session-1", epoch=2, erase=True)),
        store.commit(Commit(address="session-2", epoch=1, state=b"old", put={b"k": b"old"})),
        store.open("session-3", 0),
        store.open("session-1x", 3),
        store.commit(Commit(address="session-4", epoch=0, state=b"never opened")),
    )
    assert [str(outcome) if isinstance(outcome, Fenced) else outcome for outcome in outcomes] == [
        None,
        None,
        7,
        None,
        "session-2: epoch 1 was refused, the store has seen epoch 2",
        Opened(),
        Opened(),
        "session-4: epoch 0 was refused, the store has seen epoch 0",
    ]
    assert store.statistics().transactions - before.transactions == 1
    assert await store.open("session-0", 2) == Opened(b"one", {b"k": b"1"})
    assert await store.open("session-1", 2) == await store.open("session-2", 2) == Opened()
    assert await store.due(9, hosts=(), limit=9) == []


@pytest.mark.parametrize("beside", [True, False], ids=["beside an open", "alone"])
async def test_a_commit_waits_for_an_open_that_is_under_way(store: PostgresStore, url: str, beside: bool) -> None:
    await store.open("session-1", 1)
    async with holding(url, "UPDATE agentsilo.actors SET epoch = 2") as somebody_waits:
        calls: list[Awaitable[object]] = [store.commit(Commit(address="session-1", epoch=1, put={b"k": b"late"}))]
        group = asyncio.create_task(together(store, *calls, *([store.open("session-2", 1)] if beside else [])))
        await somebody_waits()
        assert not group.done()
    assert isinstance((await group)[0], Fenced)
    assert await store.open("session-1", 2) == Opened()


async def test_a_refused_commit_leaves_no_trace(store: PostgresStore, server: PostgresServer, url: str) -> None:
    with pytest.raises(Fenced):
        await store.commit(Commit(address="session-1", epoch=1, state=b"never opened"))
    assert server.execute("SELECT count(*) FROM agentsilo.actors", url=url) == [0]


async def test_one_that_cannot_be_stored_does_not_fail_its_group(store: PostgresStore) -> None:
    addresses = [f"session-{number}" for number in range(10)]
    await asyncio.gather(*(store.open(address, 1) for address in addresses))
    states: list[object] = [b"good"] * 10
    states[9] = ["not bytes"]
    outcomes = await together(
        store,
        *(store.commit(Commit(address=a, epoch=1, state=state)) for a, state in zip(addresses, states, strict=True)),  # type: ignore[arg-type]
        store.commit(Commit(address="session-9", epoch=7, erase=True)),
    )
    assert [outcome is None for outcome in outcomes] == [True] * 9 + [False, False]
    assert isinstance(outcomes[10], StoreUnavailable)
    assert await store.open("session-8", 1) == Opened(b"good")
    assert await store.open("session-9", 1) == Opened()


@pytest.mark.parametrize("epoch", [-1, 2**63])
async def test_numbers_that_do_not_fit_are_refused_at_once(store: PostgresStore, epoch: int) -> None:
    for attempt in (
        store.open("session-1", epoch),
        store.commit(Commit(address="session-1", epoch=epoch)),
        store.commit(Commit(address="session-1", epoch=epoch, erase=True)),
        store.raise_era(epoch),
    ):
        with pytest.raises(ValueError, match="from 0 to 2"):
            await attempt
    with pytest.raises(UnicodeEncodeError):
        await store.open("session-\ud800", 1)
    with pytest.raises(ValueError, match="zero byte"):
        await store.open("session-\0", 1)


def any_effects(randomness: Random, address: str, epoch: int) -> Commit:
    keys = [b"\x05%d" % key for key in range(10)]
    return Commit(
        address=address,
        epoch=epoch,
        state=b"state",
        put=dict.fromkeys(randomness.sample(keys, 3), b"value"),
        drop=randomness.sample(keys, 2),
        cut=[(b"", b"\xff")] if randomness.random() < 0.3 else (),
        erase=randomness.random() < 0.2,
        wake=randomness.choice((UNSET, None, 1.0)),
    )


async def test_groups_that_interleave_never_deadlock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlocks: list[str] = []
    within_limit = PostgresSession._within_limit

    async def watched(self: PostgresSession, request: Awaitable[object], **limits: float) -> object:
        try:
            return await within_limit(self, request, **limits)
        except TryAgain as error:
            deadlocks.append(str(error))
            raise

    monkeypatch.setattr(PostgresSession, "_within_limit", watched)
    stores = [await PostgresStore.open_url(url) for _ in range(3)]
    addresses = [f"session-{number}" for number in range(40)]

    async def use(store: PostgresStore, seed: int) -> None:
        randomness = Random(seed)
        for epoch in range(1, 40):
            # New addresses and known ones, opened and written, in another order by each.
            some = randomness.sample(addresses, 30) + [f"session-{epoch}.{number}" for number in range(5)]
            randomness.shuffle(some)
            calls: list[Awaitable[object]] = []
            for address in some:
                opens = randomness.random() < 0.3
                calls.append(
                    store.open(address, epoch) if opens else store.commit(any_effects(randomness, address, epoch))
                )
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert outcome is None or isinstance(outcome, Opened | Fenced), outcome

    await asyncio.gather(*(use(store, seed) for seed, store in enumerate(stores)))
    assert deadlocks == []
    for store in stores:
        await store.close()


DEADLOCK_AT_FIRST = """
CREATE FUNCTION agentsilo.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('agentsilo.failures') <= {times} THEN
        RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '{code}';
    END IF;
    RETURN NULL;
END $$
"""
AT_COMMIT = """
CREATE CONSTRAINT TRIGGER fail AFTER UPDATE OF state ON agentsilo.actors
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION agentsilo.fail()
"""


@pytest.mark.parametrize("code", ["40P01", "40001"])
@pytest.mark.parametrize(("times", "stored"), [(3, b"new"), (100, None)])
async def test_a_conflict_is_tried_again_a_few_times(
    store: PostgresStore, server: PostgresServer, url: str, code: str, times: int, stored: bytes | None
) -> None:
    failure = DEADLOCK_AT_FIRST.format(times=times, code=code)
    server.execute("CREATE SEQUENCE agentsilo.failures", failure, AT_COMMIT, url=url)
    await store.open("session-1", 1)
    commit: Callable[[], Awaitable[None]] = lambda: store.commit(Commit(address="session-1", epoch=1, state=b"new"))  # noqa: E731
    if stored is None:
        with pytest.raises(StoreUnavailable, match="deadlock detected; nothing was written"):
            await commit()
    else:
        await commit()
    assert await store.state("session-1") == stored
