"""Groups: what goes into one, that the outcomes are those of its operations one by one, and that none deadlock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from random import Random
from typing import Any

import pytest

from actors.ports import Commit, Fenced, StoreUnavailable
from cluster.store import PostgresStore
from cluster.store.postgres_group import GroupRule, Request
from cluster.store.postgres_session import PostgresSession, TryAgain
from cluster.store.sqlite_group import Delete, Open, RaiseEra
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


def test_an_address_is_opened_or_written_in_one_group() -> None:
    one, two = "session-1", "session-2"
    rule = GroupRule()
    for operation in (Commit(one, 1), Open(two, 1), Commit(one, 2), RaiseEra(0), Delete(one, 1), Delete(one, 1)):
        assert rule.admits(operation)
    for operation in (Commit(one, 1), Open(one, 1), Open(two, 1), Commit(two, 1), Delete(two, 1), RaiseEra(0)):
        assert not rule.admits(operation)


def test_what_a_group_sends_is_sorted_and_said_once() -> None:
    request = Request(
        [
            Commit("b-é", 1, b"one"),
            Commit("b-é", 1, b"two"),
            Commit("b-é", 2, b"other"),
            Commit("b-é", 1),
            Open("b-z", 3),
            Commit("a-1", 1, b"erased"),
            Delete("a-1", 1),
        ]
    )
    assert request.addresses == ["a-1", "b-z", "b-é"]
    assert request.opened == [None, 3, None]
    assert sorted(zip(request.written, request.owners, request.states, strict=True)) == [
        ("a-1", 1, None),
        ("b-é", 1, b"two"),
        ("b-é", 2, b"other"),
    ]


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 512, 1500])
async def test_every_size_of_group(store: PostgresStore, size: int) -> None:
    addresses = [f"session-{number}" for number in range(size)]
    assert await together(store, *(store.open(address, 1) for address in addresses)) == [None] * size
    await together(store, *(store.commit(Commit(address, 1, address.encode())) for address in addresses))
    before = store.statistics()
    states = await together(store, *(store.open(address, 2) for address in addresses))
    assert states == [address.encode() for address in addresses]
    assert store.statistics().transactions - before.transactions == -(-size // 64)  # as many as may be opened at once
    await together(store, *(store.delete(address, 2) for address in addresses))
    assert store.statistics().largest_group == min(size, 512)
    assert await together(store, *(store.open(address, 3) for address in addresses)) == [None] * size


async def test_a_group_is_bounded_in_bytes(store: PostgresStore) -> None:
    await store.open("session-1", 1)
    await together(store, *(store.commit(Commit("session-1", 1, bytes(6 * 1024 * 1024))) for _ in range(6)))
    assert store.statistics().largest_group <= 3


async def test_what_is_sent_does_not_grow_with_the_group(store: PostgresStore) -> None:
    counts = []
    for size in (1, 200):
        addresses = [f"session-{number}" for number in range(size)]
        await asyncio.gather(*(store.open(address, 1) for address in addresses))
        session = store._writer._session
        assert session is not None
        statements: list[str] = []
        connection: Any = session._connection
        with connection.query_logger(lambda record: statements.append(record.query)):  # noqa: B023
            await together(store, *(store.commit(Commit(address, 1, b"state")) for address in addresses))
        counts.append(len(statements))
    assert counts == [2, 2]  # is it there, and the group


async def test_a_group_with_everything(store: PostgresStore) -> None:
    await asyncio.gather(*(store.open(f"session-{number}", 2) for number in range(3)))
    outcomes = await together(
        store,
        store.commit(Commit("session-0", 2, b"one")),
        store.commit(Commit("session-0", 1, b"old")),
        store.commit(Commit("session-0", 2)),
        store.raise_era(7),
        store.delete("session-1", 2),
        store.open("session-2", 3),
        store.open("session-3", 0),
        store.commit(Commit("session-4", 0, b"never opened")),
    )
    assert [str(outcome) if isinstance(outcome, Fenced) else outcome for outcome in outcomes] == [
        None,
        "session-0: epoch 1 was refused, the store has seen epoch 2",
        None,
        7,
        None,
        None,
        None,
        "session-4: epoch 0 was refused, the store has seen epoch 0",
    ]
    assert store.statistics().transactions == 1 + 1
    assert await store.open("session-0", 2) == b"one"


async def test_a_refused_commit_leaves_no_trace(store: PostgresStore, server: PostgresServer, url: str) -> None:
    with pytest.raises(Fenced):
        await store.commit(Commit("session-1", 1, b"never opened"))
    assert server.execute("SELECT count(*) FROM agentsilo.actors", url=url) == [0]


async def test_one_that_cannot_be_stored_does_not_fail_its_group(store: PostgresStore) -> None:
    addresses = [f"session-{number}" for number in range(10)]
    await asyncio.gather(*(store.open(address, 1) for address in addresses))
    states: list[object] = [b"good"] * 10
    states[9] = ["not bytes"]
    outcomes = await together(
        store,
        *(store.commit(Commit(a, 1, state)) for a, state in zip(addresses, states, strict=True)),  # type: ignore[arg-type]
        store.delete("session-9", 7),
    )
    assert [outcome is None for outcome in outcomes] == [True] * 9 + [False, False]
    assert isinstance(outcomes[10], StoreUnavailable)
    assert await store.open("session-8", 1) == b"good"
    assert await store.open("session-9", 1) is None


@pytest.mark.parametrize("epoch", [-1, 2**63])
async def test_numbers_that_do_not_fit_are_refused_at_once(store: PostgresStore, epoch: int) -> None:
    for attempt in (
        store.open("session-1", epoch),
        store.commit(Commit("session-1", epoch)),
        store.delete("session-1", epoch),
        store.raise_era(epoch),
    ):
        with pytest.raises(ValueError, match="from 0 to 2"):
            await attempt
    with pytest.raises(UnicodeEncodeError):
        await store.open("session-\ud800", 1)
    with pytest.raises(ValueError, match="zero byte"):
        await store.open("session-\0", 1)


async def test_groups_that_interleave_never_deadlock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlocks: list[str] = []
    within_limit = PostgresSession._within_limit

    async def watched(self: PostgresSession, request: Awaitable[object]) -> object:
        try:
            return await within_limit(self, request)
        except TryAgain as error:
            deadlocks.append(str(error))
            raise

    monkeypatch.setattr(PostgresSession, "_within_limit", watched)
    stores = [await PostgresStore.open_url(url) for _ in range(3)]
    addresses = [f"session-{number}" for number in range(40)]

    async def use(store: PostgresStore, seed: int) -> None:
        randomness = Random(seed)
        for epoch in range(1, 25):
            # New addresses and known ones, opened and written, in another order by each.
            some = randomness.sample(addresses, 30) + [f"session-{epoch}.{number}" for number in range(5)]
            randomness.shuffle(some)
            calls: list[Awaitable[object]] = []
            for address in some:
                opens = randomness.random() < 0.5
                calls.append(store.open(address, epoch) if opens else store.commit(Commit(address, epoch, b"state")))
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert outcome is None or isinstance(outcome, bytes | Fenced), outcome

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
    commit: Callable[[], Awaitable[None]] = lambda: store.commit(Commit("session-1", 1, b"new"))  # noqa: E731
    if stored is None:
        with pytest.raises(StoreUnavailable, match="deadlock detected; nothing was written"):
            await commit()
    else:
        await commit()
    assert await store.open("session-1", 1) == stored
