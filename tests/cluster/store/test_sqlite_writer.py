"""The writer thread: groups, refusals, and its life and death."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from actors.ports import Commit, Fenced, StoreUnavailable
from cluster.store import SqliteStore, sqlite_schema
from tests.cluster.store.processes import run_python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open_file(path)
    yield store
    await store.close()


class Gate:
    """Holds the writer thread back before its next transaction until ``open`` is set."""

    def __init__(self, store: SqliteStore) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        transact = store._writer._transact

        def held(operations: list[object]) -> object:
            self.reached.set()
            self.open.wait()
            return transact(operations)  # type: ignore[arg-type]

        store._writer._transact = held  # type: ignore[method-assign, assignment]

    async def wait_until_reached(self) -> None:
        await asyncio.to_thread(self.reached.wait)


async def test_every_commit_waits_for_the_disk(store: SqliteStore) -> None:
    connection = store._writer._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


async def test_concurrent_commits_share_transactions(store: SqliteStore) -> None:
    addresses = [f"session-{number}" for number in range(1000)]
    await asyncio.gather(*(store.open(address, 1) for address in addresses))
    before = store.statistics()
    for number in range(5):
        await asyncio.gather(*(store.commit(Commit(address, 1, b"%d" % number)) for address in addresses))
    after = store.statistics()
    assert after.operations - before.operations == 5000
    assert after.transactions - before.transactions <= 500
    assert 10 <= after.largest_group <= 512


async def test_what_waits_during_a_transaction_is_the_next_group(store: SqliteStore) -> None:
    gate = Gate(store)
    first = asyncio.create_task(store.open("session-0", 1))
    await gate.wait_until_reached()
    others = [asyncio.create_task(store.open(f"session-{number}", 1)) for number in range(1, 100)]
    await asyncio.sleep(0)  # they have been submitted
    gate.open.set()
    await asyncio.gather(first, *others)
    statistics = store.statistics()
    assert (statistics.operations, statistics.transactions, statistics.largest_group) == (100, 2, 99)


async def test_a_group_is_bounded_in_bytes(store: SqliteStore) -> None:
    await store.open("session-1", 1)
    gate = Gate(store)
    tasks = [asyncio.create_task(store.commit(Commit("session-1", 1, bytes(6 * 1024 * 1024)))) for _ in range(6)]
    await gate.wait_until_reached()
    gate.open.set()
    await asyncio.gather(*tasks)
    assert store.statistics().largest_group <= 3


class Disk:
    """Lets the store's connections grow their file by a few pages at most while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        connect = sqlite_schema.connect

        def limited(*arguments: object, **settings: object) -> sqlite3.Connection:
            self.connection: sqlite3.Connection = connect(*arguments, **settings)  # type: ignore[arg-type]
            self.limit()
            return self.connection

        monkeypatch.setattr(sqlite_schema, "connect", limited)

    def limit(self) -> None:
        self.connection.execute(f"PRAGMA max_page_count = {20 if self.full else 1_000_000}")


async def test_a_full_disk_refuses_and_recovers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    await store.commit(Commit("session-1", 1, b"small"))
    disk.full = True
    disk.limit()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"the disk is full .*; nothing was written") as refusal:
            await store.commit(Commit("session-1", 1, bytes(1_000_000)))
        assert "\n" not in str(refusal.value)
    assert await store.open("session-1", 1) == b"small"  # nothing of it took effect
    await store.commit(Commit("session-1", 1, b"fits"))
    disk.full = False
    disk.limit()
    await store.commit(Commit("session-1", 1, bytes(1_000_000)))
    assert await store.open("session-1", 1) == bytes(1_000_000)
    await store.close()


async def test_nothing_is_applied_on_top_of_a_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    store = await SqliteStore.open_file(path)
    await asyncio.gather(store.open("session-1", 1), store.open("session-2", 1))
    disk.full = True
    disk.limit()
    gate = Gate(store)
    too_large = asyncio.create_task(store.commit(Commit("session-1", 1, bytes(1_000_000))))
    await gate.wait_until_reached()
    behind_it = asyncio.create_task(store.commit(Commit("session-1", 1, b"behind")))
    another = asyncio.create_task(store.commit(Commit("session-2", 1, b"another")))
    await asyncio.sleep(0)  # they have been submitted, before the refusal can have been reported
    gate.open.set()
    outcomes = await asyncio.gather(too_large, behind_it, another, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable, type(None)]
    await store.commit(Commit("session-1", 1, b"called after the report"))
    assert await store.open("session-1", 1) == b"called after the report"
    await store.close()


FILL_AND_FREE = """
async def main(path, fill, free):
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    fill()
    number = done = 0
    try:
        while number < 1000:
            number += 1
            await store.commit(Commit("session-1", 1, b"%d " % number + bytes(50_000)))
            done = number
    except StoreUnavailable as error:
        say(str(error))
    assert 0 < done < 1000, done
    state = None
    free()
    state = await store.open("session-1", 1)
    assert state.startswith(b"%d " % done), (state[:10], done)
    await store.commit(Commit("session-1", 1, bytes(2_000_000)))
    await store.close()
    store = await SqliteStore.open_file(path)
    assert await store.open("session-1", 1) == bytes(2_000_000)
    await store.close()
"""


def test_a_limit_on_the_size_of_files_is_survived(path: Path) -> None:
    said = run_python(
        FILL_AND_FREE
        + """
def limit(bytes): resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))
asyncio.run(main(sys.argv[1], lambda: limit(1_000_000), lambda: limit(resource.RLIM_INFINITY)))
""",
        path,
    )
    assert "SQLITE_IOERR_WRITE" in said or "disk I/O error" in said


MOUNT = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"')


def test_a_file_system_without_space_is_survived(tmp_path: Path) -> None:
    prefix = (*MOUNT, str(tmp_path))  # seen by that process alone, and gone with it
    try:
        run_python("", prefix=prefix)
    except (AssertionError, OSError):
        pytest.skip("mounting a small file system is not allowed here")
    said = run_python(
        FILL_AND_FREE
        + """
folder = sys.argv[1]
def fill(): open(folder + "/ballast", "wb").write(bytes(3_000_000))
asyncio.run(main(folder + "/silo.db", fill, lambda: os.unlink(folder + "/ballast")))
""",
        tmp_path,
        prefix=prefix,
    )
    assert "the disk is full" in said


async def test_one_that_cannot_be_stored_does_not_fail_its_group(store: SqliteStore) -> None:
    addresses = [f"session-{number}" for number in range(10)]
    await asyncio.gather(*(store.open(address, 1) for address in addresses))
    gate = Gate(store)
    commits: list[object] = [b"good"] * 10
    commits[3] = ["not bytes"]
    tasks = [
        asyncio.create_task(store.commit(Commit(address, 1, state)))  # type: ignore[arg-type]
        for address, state in zip(addresses, commits, strict=True)
    ]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome is None for outcome in outcomes] == [number != 3 for number in range(10)]
    assert await store.open("session-9", 1) == b"good"


@pytest.mark.parametrize("epoch", [-1, 2**63])
async def test_numbers_that_do_not_fit_are_refused_at_once(store: SqliteStore, epoch: int) -> None:
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


async def test_cancelled_calls_take_effect(store: SqliteStore) -> None:
    await store.open("session-1", 1)
    gate = Gate(store)
    first = asyncio.create_task(store.commit(Commit("session-1", 1, b"one")))
    await gate.wait_until_reached()
    second = asyncio.create_task(store.commit(Commit("session-1", 1, b"two")))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    gate.open.set()
    assert await store.open("session-1", 1) == b"two"


async def test_cancelling_close_does_not_stop_it(path: Path) -> None:
    store = await SqliteStore.open_file(path)
    gate = Gate(store)
    opened = asyncio.create_task(store.open("session-1", 1))
    await gate.wait_until_reached()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    gate.open.set()
    assert await opened is None
    await store.close()
    assert not store._writer._thread.is_alive()


async def test_cancelling_the_opening_gives_the_file_back(path: Path) -> None:
    task = asyncio.create_task(SqliteStore.open_file(path))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for thread in threading.enumerate():
        if thread.name == f"store {path.name}":
            await asyncio.to_thread(thread.join)
    alone = await SqliteStore.open_file(path)
    await alone.lock_exclusively()
    await alone.close()


async def test_a_dropped_store_ends_its_thread(path: Path) -> None:
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    thread = store._writer._thread
    del store
    gc.collect()
    await asyncio.to_thread(thread.join)
    alone = await SqliteStore.open_file(path)
    await alone.lock_exclusively()
    await alone.close()


def test_a_process_ends_without_closing_and_finishes_what_was_called(path: Path) -> None:
    run_python(
        """
        async def main():
            global store
            store = await SqliteStore.open_file(sys.argv[1])
            await store.open("session-1", 1)
            tasks = [asyncio.create_task(store.commit(Commit("session-1", 1, b"%d" % n))) for n in range(1000)]
            await asyncio.sleep(0)
            # The end of the loop cancels them.
        asyncio.run(main())
        """,
        path,
    )

    async def state() -> bytes | None:
        store = await SqliteStore.open_file(path)
        try:
            return await store.open("session-1", 1)
        finally:
            await store.close()

    assert asyncio.run(state()) == b"999"


def test_a_store_belongs_to_its_loop(path: Path) -> None:
    async def opened() -> SqliteStore:
        return await SqliteStore.open_file(path)

    async def used(store: SqliteStore) -> None:
        await store.open("session-1", 1)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        one, other = first.run(opened()), second.run(opened())
        first.run(used(one))
        second.run(used(other))
        with pytest.raises(RuntimeError, match="the event loop in which it was opened"):
            second.run(used(one))
        first.run(one.close())
        second.run(other.close())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_either_kind_of_loop(path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        store = await SqliteStore.open_file(path)
        await asyncio.gather(*(store.open(f"session-{number}", 2) for number in range(100)))
        with pytest.raises(Fenced):
            await store.commit(Commit("session-1", 1, b"old"))
        await store.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
