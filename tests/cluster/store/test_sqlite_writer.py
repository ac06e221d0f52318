"""The writer thread: groups, and its life and death."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from actors.ports import Commit, Fenced, Opened
from cluster.store import SqliteStore
from tests.cluster.store.processes import run_python
from tests.cluster.store.sqlite_gate import Gate

MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open_file(path)
    yield store
    await store.close()


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
        await asyncio.gather(
            *(store.commit(Commit(address=address, epoch=1, state=b"%d" % number)) for address in addresses)
        )
    after = store.statistics()
    assert after.operations - before.operations == 5000
    assert after.transactions - before.transactions <= 500
    assert 10 <= after.largest_group <= 512


async def test_what_is_submitted_in_one_round_of_the_loop_is_one_group(store: SqliteStore) -> None:
    await asyncio.gather(*(store.open(f"session-{number}", 1) for number in range(100)))
    for number in range(20):
        before = store.statistics()
        await asyncio.gather(
            *(store.commit(Commit(address=f"session-{n}", epoch=1, state=b"%d" % number)) for n in range(100))
        )
        assert store.statistics().transactions - before.transactions == 1


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


@pytest.mark.parametrize("effects", [{"state": bytes(6 * MIB)}, {"put": {b"a": bytes(3 * MIB), b"b": bytes(3 * MIB)}}])
async def test_a_group_is_bounded_in_bytes(store: SqliteStore, effects: dict[str, Any]) -> None:
    await store.open("session-1", 1)
    gate = Gate(store)
    commit = Commit(address="session-1", epoch=1, **effects)
    tasks = [asyncio.create_task(store.commit(commit)) for _ in range(6)]
    await gate.wait_until_reached()
    gate.open.set()
    await asyncio.gather(*tasks)
    assert store.statistics().largest_group <= 3


async def test_one_that_cannot_be_stored_does_not_fail_its_group(store: SqliteStore) -> None:
    addresses = [f"session-{number}" for number in range(10)]
    await asyncio.gather(*(store.open(address, 1) for address in addresses))
    gate = Gate(store)
    values: list[object] = [b"good"] * 10
    values[3] = ["not bytes"]
    tasks = [
        asyncio.create_task(store.commit(Commit(address=address, epoch=1, state=b"good", put={b"a": value})))  # type: ignore[dict-item]
        for address, value in zip(addresses, values, strict=True)
    ]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome is None for outcome in outcomes] == [number != 3 for number in range(10)]
    assert await store.open("session-3", 1) == Opened()
    assert await store.state("session-9") == b"good"


@pytest.mark.parametrize("epoch", [-1, 2**63])
async def test_numbers_that_do_not_fit_are_refused_at_once(store: SqliteStore, epoch: int) -> None:
    for attempt in (
        store.open("session-1", epoch),
        store.commit(Commit(address="session-1", epoch=epoch)),
        store.raise_era(epoch),
    ):
        with pytest.raises(ValueError, match="from 0 to 2"):
            await attempt
    with pytest.raises(UnicodeEncodeError):
        await store.open("session-\ud800", 1)


async def test_cancelled_calls_take_effect(store: SqliteStore) -> None:
    await store.open("session-1", 1)
    gate = Gate(store)
    first = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"one")))
    await gate.wait_until_reached()
    second = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"two")))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    gate.open.set()
    assert (await store.open("session-1", 1)).state == b"two"


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
    assert await opened == Opened()
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


async def test_a_dropped_store_ends_its_threads(path: Path) -> None:
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    await store.state("session-1")
    writer, reader = store._writer._thread, store._reader._thread
    assert reader is not None
    del store
    gc.collect()
    await asyncio.to_thread(writer.join)
    await asyncio.to_thread(reader.join)
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
            commits = [Commit(address="session-1", epoch=1, state=b"%d" % n) for n in range(1000)]
            tasks = [asyncio.create_task(store.commit(commit)) for commit in commits]
            await asyncio.sleep(0)
            # The end of the loop cancels them.
        asyncio.run(main())
        """,
        path,
    )

    async def state() -> bytes | None:
        store = await SqliteStore.open_file(path)
        try:
            return await store.state("session-1")
        finally:
            await store.close()

    assert asyncio.run(state()) == b"999"


def test_a_store_belongs_to_its_loop(path: Path) -> None:
    async def opened() -> SqliteStore:
        return await SqliteStore.open_file(path)

    async def used(store: SqliteStore) -> None:
        await store.open("session-1", 1)

    async def read(store: SqliteStore) -> None:
        await store.state("session-1")

    with asyncio.Runner() as first, asyncio.Runner() as second:
        one, other = first.run(opened()), second.run(opened())
        first.run(used(one))
        second.run(used(other))
        with pytest.raises(RuntimeError, match="the event loop in which it was opened"):
            second.run(used(one))
        with pytest.raises(RuntimeError, match="the event loop in which it was opened"):
            second.run(read(one))
        first.run(one.close())
        second.run(other.close())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_either_kind_of_loop(path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        store = await SqliteStore.open_file(path)
        await asyncio.gather(*(store.open(f"session-{number}", 2) for number in range(100)))
        with pytest.raises(Fenced):
            await store.commit(Commit(address="session-1", epoch=1, state=b"old"))
        await store.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
