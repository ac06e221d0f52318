"""The connection breaks while a group is under way: whatever the caller is told is true."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any

import pytest

from actors.ports import Commit, Fenced, Opened, StoreUnavailable
from cluster.store import OutcomeInDoubt, PostgresStore
from tests.cluster.store.postgres_proxy import Cut, Proxy, proxy
from tests.conformance.store.postgres_server import PostgresServer, shared_server


@pytest.fixture(scope="session")
def server() -> PostgresServer:
    return shared_server()


@pytest.fixture
async def url(server: PostgresServer) -> AsyncIterator[str]:
    """A store that has been made already: it is opened quickly, and making it takes longer."""
    url = server.lend_database()
    await (await PostgresStore.open_url(url)).close()
    yield url
    server.take_back(url)


@pytest.fixture
async def between(server: PostgresServer, url: str) -> AsyncIterator[Proxy]:
    async with proxy(server.port) as between:
        yield between


@pytest.fixture
async def store(between: Proxy, url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open_url(between.url(url))
    await asyncio.gather(*(store.open(f"session-{number}", 2) for number in range(4)))
    await store.commit(Commit(address="session-0", epoch=2, state=b"before"))
    yield store
    await store.close()


async def together(store: PostgresStore, *calls: Awaitable[object]) -> list[object]:
    async with store._writer._using:
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)  # they have been submitted
    return await asyncio.gather(*tasks, return_exceptions=True)


def leave_the_old_backend_alone(store: PostgresStore) -> None:
    """As if it could not be terminated: the row of the session alone has to keep the promise."""
    session = store._writer._session
    assert session is not None
    session.backend = (0, datetime.now(UTC))


@pytest.mark.parametrize("cut", ["before", "after", "at once"])
@pytest.mark.parametrize("terminated", [True, False], ids=["terminated", "left alone"])
async def test_a_group_takes_effect_once_with_its_own_outcomes(
    store: PostgresStore, between: Proxy, server: PostgresServer, url: str, cut: Cut, terminated: bool
) -> None:
    await store.commit(Commit(address="session-2", epoch=2, put={b"a": b"", b"b": b""}, wake=5.0))
    await store.commit(Commit(address="session-3", epoch=2, state=b"kept", put={b"a": b"kept"}))
    await store.commit(Commit(address="session-0", epoch=2, put={b"%d" % key: b"old" for key in range(5)}))
    server.note_writes(url)
    server.execute(*NOTE_RECORDS, url=url)
    if not terminated:
        leave_the_old_backend_alone(store)
    between.cut = cut
    outcomes = await together(
        store,
        store.commit(Commit(address="session-0", epoch=2, state=b"new", put={b"2": b"new", b"9": b"new"}, drop=[b"3"])),
        store.commit(Commit(address="session-0", epoch=2, cut=[(b"0", b"2")])),
        store.commit(Commit(address="session-1", epoch=1, state=b"old owner", put={b"a": b"old owner"})),
        store.commit(Commit(address="session-2", epoch=2, erase=True)),
        store.open("session-3", 5),
        store.open("session-4", 5),
        store.raise_era(9),
    )
    assert between.happened.is_set()
    assert [str(outcome) if isinstance(outcome, Fenced) else outcome for outcome in outcomes] == [
        None,
        None,
        "session-1: epoch 1 was refused, the store has seen epoch 2",
        None,
        Opened(b"kept", {b"a": b"kept"}),
        Opened(),
        9,
    ]
    assert server.execute("SELECT address FROM agentsilo.written ORDER BY 1", url=url) == ["session-0", "session-2"]
    assert server.execute("SELECT note FROM agentsilo.noted ORDER BY 1", url=url) == [
        "DELETE session-0 0",
        "DELETE session-0 1",
        "DELETE session-0 3",
        "DELETE session-2 a",
        "DELETE session-2 b",
        "INSERT session-0 9",
        "UPDATE session-0 2",
    ]
    assert await store.open("session-0", 2) == Opened(b"new", {b"2": b"new", b"4": b"old", b"9": b"new"})
    assert await store.due(9.0, hosts=(), limit=9) == []
    between.deliver.set()


NOTE_RECORDS = (
    "CREATE TABLE agentsilo.noted (note text)",
    """
    CREATE FUNCTION agentsilo.note_record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO agentsilo.noted
        SELECT concat_ws(' ', TG_OP, (coalesce(new, old)).address, convert_from((coalesce(new, old)).key, 'UTF8'));
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER note_record AFTER INSERT OR UPDATE OR DELETE ON agentsilo.records
    FOR EACH ROW EXECUTE FUNCTION agentsilo.note_record()
    """,
)


async def test_what_was_done_before_another_owner_came_is_a_success(
    store: PostgresStore, between: Proxy, url: str
) -> None:
    """Another owner comes between the commit and the news of it."""
    other = await PostgresStore.open_url(url)
    between.cut = "after"
    commit = asyncio.create_task(store.commit(Commit(address="session-0", epoch=2, state=b"by the old")))
    await between.happened.wait()
    between.refuse = True
    assert await other.open("session-0", 3) == Opened(b"by the old")
    await other.commit(Commit(address="session-0", epoch=3, state=b"by the new"))
    assert not commit.done()
    between.refuse = False
    await commit
    with pytest.raises(Fenced):
        await store.commit(Commit(address="session-0", epoch=2, state=b"zombie"))
    await other.close()


async def test_a_group_that_arrives_late_changes_nothing(
    store: PostgresStore, between: Proxy, server: PostgresServer, url: str
) -> None:
    server.note_writes(url)
    leave_the_old_backend_alone(store)
    between.cut = "late"
    await store.commit(Commit(address="session-0", epoch=2, state=b"new"))  # tried again in another session
    await store.commit(Commit(address="session-0", epoch=2, state=b"newer"))
    between.deliver.set()
    assert b"AS001" in await between.delivered
    assert await store.open("session-0", 2) == Opened(b"newer")
    assert server.execute("SELECT state FROM agentsilo.written", url=url) == [b"new", b"newer"]


async def test_the_last_words_of_a_server_between_two_groups(store: PostgresStore) -> None:
    """It said that it is shutting down, and the end of the connection is still on its way."""
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    session = store._writer._session
    assert session is not None
    connection: Any = session._connection
    connection._protocol.data_received(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
    assert not session.closed
    await store.commit(Commit(address="session-0", epoch=2, state=b"new"))
    assert await store.open("session-0", 2) == Opened(b"new")
    assert store._writer._session is not session


HOLD_THE_COMMIT = """
CREATE FUNCTION agentsilo.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_advisory_xact_lock_shared(99); RETURN NULL;
END $$
"""
AT_COMMIT = """
CREATE CONSTRAINT TRIGGER hold AFTER UPDATE OF state ON agentsilo.actors
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION agentsilo.hold()
"""


async def test_a_transaction_that_is_committing_is_waited_for(
    store: PostgresStore, between: Proxy, server: PostgresServer, url: str
) -> None:
    server.note_writes(url)
    server.execute(HOLD_THE_COMMIT, AT_COMMIT, url=url)
    leave_the_old_backend_alone(store)
    holder = await PostgresStore.open_url(url)
    session = holder._writer._session
    assert session is not None
    await session._connection.execute("SELECT pg_advisory_lock(99)")
    between.cut = "at once"
    commit = asyncio.create_task(store.commit(Commit(address="session-0", epoch=2, state=b"new")))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        # The old backend waits for the lock of this test, then the new one for the old one.
        while await session._connection.fetchval(waiting) < 2:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0)
    assert not commit.done()
    await session._connection.execute("SELECT pg_advisory_unlock(99)")
    await commit
    assert server.execute("SELECT state FROM agentsilo.written", url=url) == [b"new"]
    between.deliver.set()
    await holder.close()


async def test_in_doubt_means_neither_done_nor_refused(server: PostgresServer, url: str) -> None:
    """The database goes away for good with a commit under way: only closing the store ends the waiting."""
    async with proxy(server.port) as between:
        store = await PostgresStore.open_url(between.url(url), timeout=1.0)
        await store.open("session-0", 1)
        between.cut = "after"
        commit = asyncio.create_task(store.commit(Commit(address="session-0", epoch=1, state=b"in doubt")))
        await between.happened.wait()
        between.refuse = True
        with pytest.raises(StoreUnavailable, match="nothing was written"):  # in bounded time
            await store.open("session-1", 1)
        assert not commit.done()
        await store.close()
        with pytest.raises(OutcomeInDoubt, match="closed before it could be known"):
            await commit
    assert server.execute("SELECT state FROM agentsilo.actors", url=url) == [b"in doubt"]


async def test_a_refusal_after_a_lost_connection_is_true(server: PostgresServer, url: str) -> None:
    """The group did not get through, and its time is over when that is known."""
    async with proxy(server.port) as between:
        store = await PostgresStore.open_url(between.url(url), timeout=1.0)
        await store.open("session-0", 1)
        between.cut = "before"
        commit = asyncio.create_task(store.commit(Commit(address="session-0", epoch=1, state=b"lost")))
        await between.happened.wait()
        between.refuse = True
        with pytest.raises(StoreUnavailable):
            await store.open("session-1", 1)
        assert not commit.done()
        behind = asyncio.create_task(store.commit(Commit(address="session-0", epoch=1, state=b"on top of a gap")))
        await asyncio.sleep(0)
        between.refuse = False
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await commit
        with pytest.raises(StoreUnavailable):
            await behind
        assert await store.open("session-0", 1) == Opened()
        await store.commit(Commit(address="session-0", epoch=1, state=b"called after the report"))
        await store.close()
