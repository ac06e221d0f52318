"""The reader thread: what it asks of the file, what goes wrong with that, and its end."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from actors.ports import Commit, Due, StoreUnavailable
from cluster.store import SqliteStore
from cluster.store.sqlite_read import (
    DueQuery,
    FlagQuery,
    Range,
    read_due,
    read_flagged,
    read_ranges,
    read_states,
)
from cluster.store.sqlite_schema import connect_reader
from tests.cluster.store.processes import python

FILL = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :rows)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open_file(path)
    yield store
    await store.close()


@pytest.fixture
def reader(store: SqliteStore, path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect_reader(path)) as connection:
        yield connection


def steps(connection: sqlite3.Connection, counted: list[int]) -> None:
    """Let the list grow by one for each step of SQLite's virtual machine."""
    connection.set_progress_handler(lambda: counted.append(1), 1)


async def put(store: SqliteStore, address: str, records: dict[bytes, bytes], *, wake: float | None = None) -> None:
    await store.open(address, 1, "a.1")
    await store.commit(Commit(address=address, epoch=1, state=address.encode(), put=records, wake=wake))


@pytest.mark.parametrize("size", [1, 2, 3, 31, 33, 64, 65, 130])
async def test_every_number_of_questions(store: SqliteStore, reader: sqlite3.Connection, size: int) -> None:
    addresses = [f"session-{number}" for number in range(size)]
    await asyncio.gather(*(put(store, address, {b"a": address.encode(), b"b": b"2"}) for address in addresses))
    assert read_states(reader, addresses) == [address.encode() for address in addresses]
    ranges = [
        Range(address, b"a", b"c", limit=1 + number % 2, newest=number % 3 == 0)
        for number, address in enumerate(addresses)
    ]
    found = read_ranges(reader, ranges)
    for number, address in enumerate(addresses):
        both = [(b"a", address.encode()), (b"b", b"2")]
        assert found[number] == (both if number % 2 else both[1:] if number % 3 == 0 else both[:1]), number


@pytest.mark.parametrize("count", [127, 128, 129, 256, 257])
@pytest.mark.parametrize("newest", [False, True])
async def test_ranges_of_about_a_page(store: SqliteStore, reader: sqlite3.Connection, count: int, newest: bool) -> None:
    written = [(b"%03d" % number, bytes([number % 256])) for number in range(count)]
    await put(store, "session-1", dict(written))
    for limit in (127, 128, 129, 255, 256, 257, 2**40):
        (found,) = read_ranges(reader, [Range("session-1", b"", b"\xff", limit, newest)])
        assert found == (written[-limit:] if newest else written[:limit]), limit


async def test_large_values_among_small_ones(store: SqliteStore, reader: sqlite3.Connection) -> None:
    sizes = [0, 1, 16_384, 16_385, 5, 1_000_000, 0]
    written = [(b"%d" % number, bytes([number]) * size) for number, size in enumerate(sizes)]
    await put(store, "session-1", dict(written))
    ranges = [Range("session-1", b"", b"\xff", limit, newest) for limit in (2, 9) for newest in (False, True)]
    assert read_ranges(reader, ranges) == [written[:2], written[-2:], written, written]


async def test_all_pages_are_of_one_moment(store: SqliteStore, reader: sqlite3.Connection, path: Path) -> None:
    written = [(b"\5%03d" % number, b"1") for number in range(300)]
    await put(store, "session-1", dict(written), wake=1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        selects: list[str] = []

        def change_before_the_second(statement: str) -> None:
            if "BEGIN" in statement:
                selects.clear()
            elif "SELECT" in statement:
                selects.append(statement)
                if len(selects) == 2:
                    other.execute("DELETE FROM records WHERE key >= x'05313030'")
                    other.execute("UPDATE actors SET wake = NULL")

        reader.set_trace_callback(change_before_the_second)
        assert read_due(reader, [DueQuery(9.0, frozenset(), None, 10)]) == [[Due(1.0, "session-1")]]
        other.execute("DELETE FROM records")
        await store.commit(Commit(address="session-1", epoch=1, put=dict(written)))
        (flagged,) = read_flagged(reader, [FlagQuery(("", b""), 1000)])
        assert [record[1:] for record in flagged] == written
        await store.commit(Commit(address="session-1", epoch=1, put=dict(written)))
        assert read_ranges(reader, [Range("session-1", b"", b"\xff", 1000)]) == [written]


async def test_short_ranges_take_one_statement(store: SqliteStore, reader: sqlite3.Connection) -> None:
    addresses = [f"session-{number}" for number in range(32)]
    await asyncio.gather(*(put(store, address, {b"a": b"1"}) for address in addresses))
    statements: list[str] = []
    reader.set_trace_callback(statements.append)
    read_ranges(reader, [Range(address, b"a", b"c", 10) for address in addresses])
    assert len(statements) == 1


async def test_due_passes_over_no_address_of_a_living_host(store: SqliteStore, reader: sqlite3.Connection) -> None:
    await put(store, "session-1", {}, wake=1.0)
    with closing(sqlite3.connect(store._writer.path)) as connection, connection:
        insert = "INSERT INTO actors (address, epoch, wake, host) SELECT 'living-' || n, 1, 0.5, 'h' || (n % 5)"
        connection.execute(f"{FILL} {insert} FROM number", {"rows": 10_000})
        connection.execute(
            f"{FILL} {insert.replace('0.5', 'NULL').replace('living', 'idle')} FROM number", {"rows": 10_000}
        )
    counted: list[int] = []
    steps(reader, counted)
    living = frozenset(f"h{number}" for number in range(5))
    assert read_due(reader, [DueQuery(9.0, living, None, 100)]) == [[Due(1.0, "session-1")]]
    assert len(counted) < 2_000
    # Of those that are due, no more are read than are asked for.
    counted.clear()
    (found,) = read_due(reader, [DueQuery(9.0, frozenset({"h1"}), None, 10)])
    assert len(found) == 10
    assert len(counted) < 5_000


async def test_flagged_passes_over_nothing_else(store: SqliteStore, reader: sqlite3.Connection) -> None:
    await put(store, "session-1", {b"\5a": b"1"})
    with closing(sqlite3.connect(store._writer.path)) as connection, connection:
        connection.execute(
            f"{FILL} INSERT INTO actors (address, epoch) SELECT 'a-' || n, 1 FROM number", {"rows": 10_000}
        )
        connection.execute(
            f"{FILL} INSERT INTO records SELECT n + 2, CAST(char(n % 2 * 2 + 4) AS BLOB), x'' FROM number",
            {"rows": 10_000},
        )
    counted: list[int] = []
    steps(reader, counted)
    assert read_flagged(reader, [FlagQuery(("", b""), 10)]) == [[("session-1", b"\5a", b"1")]]
    assert len(counted) < 2_000


async def test_many_and_large_flagged_records(store: SqliteStore, reader: sqlite3.Connection) -> None:
    expected = []
    for number in range(3):
        records = {b"\5%03d" % flag: bytes([flag]) * (flag * 300) for flag in range(100)}
        await put(store, f"session-{number}", records)
        expected += [(f"session-{number}", key, value) for key, value in records.items()]
    for limit in (1, 127, 128, 129, 256, 300, 1000):
        assert read_flagged(reader, [FlagQuery(("", b""), limit)]) == [expected[:limit]], limit


async def test_the_reader_cannot_write(store: SqliteStore, reader: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("UPDATE store SET era = 9")


async def test_trouble_with_the_file_passes(store: SqliteStore) -> None:
    await put(store, "session-1", {b"a": b"1"})
    assert await store.state("session-1") == b"session-1"
    connection = store._reader._connection
    assert connection is not None
    connection.set_progress_handler(lambda: 1, 1)  # makes everything fail with SQLITE_INTERRUPT
    reads = (store.state("session-1"), store.read("session-1", b"a", b"b", limit=1), store.due(1.0, hosts=(), limit=1))
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(outcomes[0], StoreUnavailable)
    assert "nothing was read" in str(outcomes[0])
    assert "\n" not in str(outcomes[0])
    assert list(outcomes[1:]) == [[(b"a", b"1")], []]  # on a new connection
    assert await store.state("session-1") == b"session-1"


async def test_waiting_for_the_file_has_an_end(path: Path) -> None:
    store = await SqliteStore.open_file(path, busy_timeout=0.1)
    await put(store, "session-1", {})
    await store.close()
    store = await SqliteStore.open_file(path, busy_timeout=0.1)
    hold = """
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("UPDATE store SET era = 1")
    say("held")
    wait()
    """
    store._writer._disconnect()  # nobody else may have it open
    with python(hold, path) as other:
        assert other.heard() == "held"
        with pytest.raises(StoreUnavailable, match=r"another process held it for 0.1 s; nothing was read"):
            await store.state("session-1")
    assert await store.state("session-1") == b"session-1"
    await store.close()


class Gate:
    """Holds the reader thread back before its next group until ``open`` is set."""

    def __init__(self, store: SqliteStore) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        answer = store._reader._answer

        def held(group: list[object]) -> None:
            self.reached.set()
            self.open.wait()
            answer(group)  # type: ignore[arg-type]

        store._reader._answer = held  # type: ignore[method-assign, assignment]

    async def wait_until_reached(self) -> None:
        await asyncio.to_thread(self.reached.wait)


async def test_a_question_that_cannot_be_asked_fails_alone(store: SqliteStore) -> None:
    await put(store, "session-1", {b"a": b"1"})
    gate = Gate(store)
    first = asyncio.create_task(store.state("session-1"))
    await gate.wait_until_reached()
    reads = [
        asyncio.create_task(store.read(address, b"a", b"b", limit=1))
        for address in ("session-1", "session-\ud800", "session-1")
    ]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(first, *reads, return_exceptions=True)
    assert isinstance(outcomes[2], UnicodeEncodeError)
    assert [outcomes[0], outcomes[1], outcomes[3]] == [b"session-1", [(b"a", b"1")], [(b"a", b"1")]]


async def test_a_cancelled_read_leaves_its_group(store: SqliteStore) -> None:
    await put(store, "session-1", {})
    gate = Gate(store)
    first = asyncio.create_task(store.state("session-1"))
    await gate.wait_until_reached()
    others = [asyncio.create_task(store.state("session-1")) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    others[1].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [True, False, True, False]
    assert outcomes[1] == outcomes[3] == b"session-1"
    assert await store.state("session-1") == b"session-1"


async def test_closing_ends_the_thread_after_what_was_asked(path: Path) -> None:
    store = await SqliteStore.open_file(path)
    await put(store, "session-1", {})
    gate = Gate(store)
    reads = [asyncio.create_task(store.state("session-1")) for _ in range(3)]
    await gate.wait_until_reached()
    closing_ = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing_.cancel()
    await asyncio.gather(closing_, return_exceptions=True)
    gate.open.set()
    assert await asyncio.gather(*reads) == [b"session-1"] * 3
    await store.close()
    thread = store._reader._thread
    assert thread is not None
    assert not thread.is_alive()
    assert {file.name for file in path.parent.iterdir()} == {"silo.db", "silo.db.lock"}


async def test_a_store_that_never_reads_has_no_reader_thread(store: SqliteStore) -> None:
    await put(store, "session-1", {})
    assert store._reader._thread is None
