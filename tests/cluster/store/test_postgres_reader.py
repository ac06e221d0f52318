"""Reading beside the writer: nothing is waited for, nothing stale is seen, plans are good for any number of rows."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from actors.ports import Commit, Due, StoreUnavailable
from cluster.store import PostgresStore, postgres
from cluster.store.postgres_driver import Connection
from cluster.store.postgres_reader import PostgresReader
from cluster.store.postgres_url import parse
from tests.cluster.store.postgres_locks import holding
from tests.cluster.store.postgres_proxy import proxy
from tests.conformance.store.postgres_server import PostgresServer

QUICK = 1.0  # seconds that a store waits, where a test waits for it
EVERYTHING = (b"", b"\xff")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()  # not the shared one: it is killed and frozen here
    yield server
    server.stop()


@pytest.fixture
async def url(server: PostgresServer) -> AsyncIterator[str]:
    """A store that has been made already: it is opened quickly, and making it takes longer."""
    url = server.lend_database()
    await (await PostgresStore.open_url(url)).close()
    yield url
    server.take_back(url)


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open_url(url, timeout=QUICK)
    yield store
    await store.close()


@pytest.fixture(autouse=True)
async def no_hang() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


def connection_of(store: PostgresStore) -> Connection:
    session = store._writer._session
    assert session is not None
    return session._connection


async def backends(store: PostgresStore) -> int:
    """How many connections the store has."""
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    return int(await connection_of(store).fetchval(count))


async def write(store: PostgresStore, state: bytes = b"one") -> None:
    await store.open("session-1", 1)
    await store.commit(Commit(address="session-1", epoch=1, state=state, put={b"k": state}))


async def test_connections_are_made_when_they_are_needed_and_not_many(store: PostgresStore) -> None:
    await write(store)
    assert await backends(store) == 1
    assert await store.state("session-1") == b"one"
    assert await backends(store) == 2
    await asyncio.gather(*(store.read("session-1", *EVERYTHING, limit=9) for _ in range(50)))
    assert await backends(store) == 3


async def test_reading_does_not_wait_behind_a_group(url: str) -> None:
    store = await PostgresStore.open_url(url)
    await write(store)
    async with holding(url, "SELECT FROM agentsilo.actors FOR UPDATE") as somebody_waits:
        blocked = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"two", wake=1.0)))
        await somebody_waits()
        assert await store.state("session-1") == b"one"
        assert await store.read("session-1", *EVERYTHING, limit=9) == [(b"k", b"one")]
        assert await store.due(9.0, hosts=(), limit=9) == []
        assert await store.flagged(limit=9) == []
        assert not blocked.done()
    await blocked
    assert await store.due(9.0, hosts=(), limit=9) == [Due(1.0, "session-1")]
    await store.close()


async def test_a_server_that_is_gone_is_refused_in_time_and_found_again(
    server: PostgresServer, store: PostgresStore
) -> None:
    await write(store)
    assert await store.state("session-1") == b"one"
    server.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="^postgresql://127.0.0.1:.*; nothing was read$"):
            await store.state("session-1")
    server.launch()
    await asyncio.to_thread(server.wait_until_ready)
    while True:  # nobody else makes it connect again
        with suppress(StoreUnavailable):
            assert await store.state("session-1") == b"one"
            break


async def test_a_frozen_server_is_refused_in_time_and_goes_on(server: PostgresServer, store: PostgresStore) -> None:
    await write(store)
    assert await store.state("session-1") == b"one"
    server.freeze()
    try:
        outcomes = await asyncio.gather(
            *(store.read("session-1", *EVERYTHING, limit=9) for _ in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5
    finally:
        server.thaw()
    assert await store.read("session-1", *EVERYTHING, limit=9) == [(b"k", b"one")]


async def test_what_takes_too_long_is_refused_and_the_rest_goes_on(url: str, store: PostgresStore) -> None:
    await write(store)
    async with holding(url, "LOCK TABLE agentsilo.records"):
        with pytest.raises(StoreUnavailable, match="nothing was read"):
            await store.read("session-1", *EVERYTHING, limit=9)
        assert await store.state("session-1") == b"one"
    assert await store.read("session-1", *EVERYTHING, limit=9) == [(b"k", b"one")]


async def test_cancelled_reads_leave_their_connections_in_order(url: str) -> None:
    store = await PostgresStore.open_url(url)
    await write(store)
    await asyncio.gather(*(store.read("session-1", *EVERYTHING, limit=9) for _ in range(5)))
    reader = store._writer.reader
    connections = {reading.connection for reading in reader._idle}
    async with holding(url, "LOCK TABLE agentsilo.records") as somebody_waits:
        reads = [asyncio.create_task(store.read("session-1", *EVERYTHING, limit=9)) for _ in range(5)]
        await somebody_waits()
        for read in reads:
            read.cancel()
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert await store.read("session-1", *EVERYTHING, limit=9) == [(b"k", b"one")]
    while reader._queries:
        await asyncio.wait(reader._queries)
    assert {reading.connection for reading in reader._idle} == connections
    await store.close()


async def test_closing_ends_all_connections(server: PostgresServer, url: str, store: PostgresStore) -> None:
    await write(store)
    reads = [asyncio.create_task(store.state("session-1")) for _ in range(5)]
    await asyncio.sleep(0)  # they have been called
    await store.close()
    assert await asyncio.gather(*reads) == [b"one"] * 5
    for attempt in (
        store.state("session-1"),
        store.read("session-1", *EVERYTHING, limit=9),
        store.due(9.0, hosts=(), limit=9),
        store.flagged(limit=9),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await attempt
    database = url.rpartition("/")[2]
    while server.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'") != [0]:
        pass  # the server takes a moment to notice


async def test_a_connection_for_reading_goes_with_the_session_of_the_writer(
    server: PostgresServer, store: PostgresStore
) -> None:
    await write(store)
    await store.state("session-1")
    session = store._writer._session
    assert session is not None
    server.execute(f"SELECT pg_terminate_backend({session.backend[0]})")
    await write(store, b"two")
    assert await store.state("session-1") == b"two"
    assert await backends(store) == 2
    (reading,) = store._writer.reader._idle
    assert reading.session is store._writer._session is not session


async def test_another_server_is_not_read(server: PostgresServer, url: str) -> None:
    """The same address leads elsewhere: to a standby, a copy, or the primary that was replaced."""
    other = PostgresServer()
    try:
        async with proxy(server.port) as between:
            while (there := other.new_database()).rpartition("/")[2] != url.rpartition("/")[2]:
                pass
            stale = await PostgresStore.open_url(there)
            await write(stale, b"stale")
            await stale.close()
            store = await PostgresStore.open_url(between.url(url), timeout=QUICK)
            await write(store, b"new")
            front, between.server_port = between.server_port, other.port
            with pytest.raises(StoreUnavailable, match="not the server that the store writes to; nothing was read"):
                await store.state("session-1")
            between.server_port = front
            assert await store.state("session-1") == b"new"
            await store.close()
    finally:
        other.stop()


@pytest.mark.parametrize("text", ["session-\0", "session-\ud800"])
async def test_what_no_database_holds_is_refused_at_once(store: PostgresStore, text: str) -> None:
    for attempt in (
        store.state(text),
        store.read(text, *EVERYTHING, limit=9),
        store.due(9.0, hosts=(text,), limit=9),
        store.flagged(after=(text, b""), limit=9),
        store.open("session-1", 1, text),
    ):
        with pytest.raises(ValueError, match="zero byte|surrogates"):
            await attempt


MANY = """
INSERT INTO agentsilo.actors (address, epoch, wake, host)
SELECT 'session-' || n, 1, n, CASE WHEN n % 1000 = 0 THEN 'dead.1' ELSE 'alive.' || n % 3 END
FROM generate_series(1, 30000) AS n
"""
MANY_RECORDS = """
INSERT INTO agentsilo.records
SELECT 'session-' || n, CASE WHEN n % 1000 = 0 THEN '\\x05' ELSE '\\x80' END::bytea || int4send(k), 'value'
FROM generate_series(1, 3000) AS n, generate_series(1, 10) AS k
"""


async def plan(store: PostgresStore, query: str, *arguments: object) -> list[str]:
    """How the server answers a query of a connection for reading, which has been used."""
    (reading, *_) = store._writer.reader._idle
    explained = await reading.connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {query}", *arguments)
    return [line for (line,) in explained]


def buffers(lines: list[str]) -> int:
    (line, *_) = (line for line in lines if "Buffers:" in line)
    return sum(int(part.partition("=")[2]) for part in line.split() if part.startswith(("hit=", "read=")))


@pytest.mark.parametrize("planned", ["before", "after"])
async def test_rows_of_living_hosts_are_passed_over(
    server: PostgresServer, url: str, store: PostgresStore, planned: str
) -> None:
    """Whether the plan was made when nothing was there, or later: nobody has gathered statistics."""
    if planned == "before":
        assert await store.due(1e9, hosts=(), limit=100) == []
    server.execute(MANY, "SELECT 1", url=url)
    alive = [f"alive.{number}" for number in range(3)]
    found = await store.due(20_500.0, hosts=alive, limit=100)
    assert found == [Due(1000.0 * n, f"session-{1000 * n}") for n in range(1, 21)]
    lines = await plan(store, postgres._DUE, 20_500.0, -1.0, "", 100, alive)
    assert not [line for line in lines if "Seq Scan" in line or "Bitmap" in line]
    assert buffers(lines) < 60, "\n".join(lines)  # the index alone has hundreds of pages


@pytest.mark.parametrize("planned", ["before", "after"])
async def test_records_are_found_by_the_index_that_is_for_them(
    server: PostgresServer, url: str, store: PostgresStore, planned: str
) -> None:
    if planned == "before":
        assert await store.flagged(limit=9) == []
        assert await store.read("session-1", *EVERYTHING, limit=9) == []
    server.execute(MANY_RECORDS, "SELECT 1", url=url)
    assert len(await store.flagged(limit=100)) == 30
    assert len(await store.read("session-1000", *EVERYTHING, limit=3, newest=True)) == 3
    lines = await plan(store, postgres._FLAGGED, "", b"", 100)
    assert any("records_flagged" in line for line in lines), "\n".join(lines)
    assert buffers(lines) < 60, "\n".join(lines)
    for query in (postgres._READ, postgres._READ_NEWEST):
        lines = await plan(store, query, "session-1000", *EVERYTHING, 3)
        assert not [line for line in lines if "Sort" in line or "Seq Scan" in line], "\n".join(lines)
        assert buffers(lines) < 15, "\n".join(lines)


async def test_too_many_queries_are_refused_in_time(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(store)
    free = asyncio.Semaphore(1)
    monkeypatch.setattr(store._writer.reader, "_free", free)
    async with free:
        with pytest.raises(StoreUnavailable, match="too many queries wait; nothing was read"):
            await store.state("session-1")
    assert await store.state("session-1") == b"one"


async def test_nobody_hears_of_a_failure_that_nobody_waits_for() -> None:
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    reader = PostgresReader(parse("postgresql://127.0.0.1:1/x"), timeout=0.1, session=lambda: None)
    query = asyncio.create_task(reader.fetch("SELECT 1"))
    await asyncio.sleep(0)  # it has begun
    query.cancel()
    await reader.close()
    with pytest.raises(asyncio.CancelledError):
        await query
    gc.collect()
    assert unhandled == []
