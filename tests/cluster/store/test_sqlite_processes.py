"""Several processes and one file: waiting for each other, and excluding each other."""

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.ports import Commit, Opened, StoreUnavailable
from cluster.store import SqliteStore, StoreInUse
from cluster.store.operations import Operation, Outcome
from tests.cluster.store.processes import python, run_python

HOLD_THE_WRITE_LOCK = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
say("held")
wait()
connection.execute("COMMIT")
say("free")
wait()
"""

HOLD_THE_STORE = """
async def main():
    store = await SqliteStore.open_file(sys.argv[1])
    if sys.argv[2] == "alone":
        await store.lock_exclusively()
    await store.open("session-1", 1)
    say("open")
    wait()
    await store.close()
    say("closed")
    wait()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo.db"


async def open_and_close(path: Path, *, alone: bool = False) -> None:
    store = await SqliteStore.open_file(path)
    try:
        if alone:
            await store.lock_exclusively()
    finally:
        await store.close()


@pytest.mark.parametrize("stopped", [False, True])
async def test_waiting_for_another_process_has_an_end(path: Path, stopped: bool) -> None:
    """The error names who is in the way, and whether that one will ever go on by itself."""
    store = await SqliteStore.open_file(path, busy_timeout=0.1)
    with python(HOLD_THE_WRITE_LOCK, path) as other:
        assert other.heard() == "held"
        holder = f"process {other.process.pid}" if sys.platform == "linux" else "another process"
        if stopped and sys.platform == "linux":
            other.process.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, other.process.pid, os.WSTOPPED | os.WNOWAIT)
            holder += ", which is stopped (continue or end it),"
        with pytest.raises(StoreUnavailable, match=re.escape(f"{holder} held it for 0.1 s; nothing was written")):
            await store.open("session-1", 1)
        other.process.send_signal(signal.SIGCONT)
        other.go()
        assert other.heard() == "free"
        assert await store.open("session-1", 1) == Opened()
    await store.close()


async def test_reading_waits_for_no_writer(path: Path) -> None:
    store = await SqliteStore.open_file(path, busy_timeout=60)
    await store.open("session-1", 1)
    await store.commit(Commit(address="session-1", epoch=1, state=b"one", put={b"a": b"1"}))
    with python(HOLD_THE_WRITE_LOCK, path) as other:
        assert other.heard() == "held"
        commit = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"two")))
        assert await store.state("session-1") == b"one"
        assert await store.read("session-1", b"a", b"b", limit=1) == [(b"a", b"1")]
        assert not commit.done()
        other.go()
        await commit
    assert await store.state("session-1") == b"two"
    await store.close()


async def test_an_operation_waits_for_another_process(path: Path) -> None:
    store = await SqliteStore.open_file(path, busy_timeout=60)
    with python(HOLD_THE_WRITE_LOCK, path) as other:
        assert other.heard() == "held"
        opened = asyncio.create_task(store.open("session-1", 1))
        await asyncio.sleep(0)
        other.go()
        assert await opened == Opened()
    await store.close()


def test_three_processes_write_to_one_file(path: Path) -> None:
    count = """
    async def main():
        store = await SqliteStore.open_file(sys.argv[1], busy_timeout=60)
        say(store.id)
        wait()
        async def own(address):
            await store.open(address, 1)
            for number in range(50):
                await store.commit(Commit(address=address, epoch=1, state=b"%d" % number))
        await asyncio.gather(*(own(f"session-{sys.argv[2]}.{number}") for number in range(4)))
        await store.close()
        say("done")
    asyncio.run(main())
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(python(count, path, number)) for number in range(3)]
        assert len({process.heard() for process in processes}) == 1
        for process in processes:
            process.go()
        assert [process.heard() for process in processes] == ["done"] * 3

    async def states() -> set[bytes | None]:
        store = await SqliteStore.open_file(path)
        try:
            return {await store.state(f"session-{silo}.{number}") for silo in range(3) for number in range(4)}
        finally:
            await store.close()

    assert asyncio.run(states()) == {b"49"}


async def test_an_embedded_silo_keeps_others_out_until_it_closes(path: Path) -> None:
    with python(HOLD_THE_STORE, path, "alone") as embedded:
        assert embedded.heard() == "open"
        with pytest.raises(StoreInUse, match=rf"embedded silo \(process {embedded.process.pid}\) has this store"):
            await open_and_close(path)
        embedded.go()
        assert embedded.heard() == "closed"
        await open_and_close(path, alone=True)


async def test_death_gives_the_lock_back(path: Path) -> None:
    with python(HOLD_THE_STORE, path, "alone") as embedded:
        assert embedded.heard() == "open"
        embedded.process.kill()
        embedded.process.wait()
    await open_and_close(path, alone=True)


async def test_silos_of_a_cluster_share_and_keep_an_embedded_one_out(path: Path) -> None:
    with python(HOLD_THE_STORE, path, "together") as clustered:
        assert clustered.heard() == "open"
        await open_and_close(path)
        with pytest.raises(StoreInUse, match="An embedded silo must be alone"):
            await open_and_close(path, alone=True)


async def test_a_refused_claim_keeps_the_shared_lock(path: Path) -> None:
    first, second = await SqliteStore.open_file(path), await SqliteStore.open_file(path)
    with pytest.raises(StoreInUse):
        await first.lock_exclusively()
    with pytest.raises(StoreInUse):
        await second.lock_exclusively()
    await first.commit(Commit(address="session-1", epoch=await _opened(first), state=b"one"))
    await first.close()
    await second.lock_exclusively()
    with pytest.raises(StoreUnavailable, match="closed"):
        await first.lock_exclusively()
    await second.close()


async def _opened(store: SqliteStore) -> int:
    await store.open("session-1", 1)
    return 1


async def test_a_link_to_the_file_has_the_same_lock(path: Path) -> None:
    link = path.with_name("link.db")
    _link(link, path)
    store = await SqliteStore.open_file(path)
    await store.lock_exclusively()
    with pytest.raises(StoreInUse):
        await SqliteStore.open_file(link)
    await store.close()


def _link(link: Path, path: Path) -> None:
    link.symlink_to(path)


def test_the_loser_of_a_race_is_told(path: Path) -> None:
    claim = """
    async def main():
        store = await SqliteStore.open_file(sys.argv[1])
        try:
            await store.lock_exclusively()
        except StoreInUse as error:
            say("refused: " + str(error))
        await store.close()
    asyncio.run(main())
    """
    asyncio.run(open_and_close(path))
    with python(HOLD_THE_STORE, path, "together") as holder:
        assert holder.heard() == "open"
        said = run_python(claim, path)
    assert said.startswith("refused: ")
    assert said.count("\n") == 1


async def test_who_has_waited_behind_others_is_refused_with_them(path: Path) -> None:
    store = await SqliteStore.open_file(path, busy_timeout=1.0)
    await asyncio.gather(store.open("session-1", 1), store.open("session-2", 1))
    patience: list[float] = []
    transact = store._writer._transact

    def watched(operations: list[Operation]) -> list[Outcome]:
        patience.append(store._writer._patient_until - time.monotonic())
        return transact(operations)

    store._writer._transact = watched  # type: ignore[method-assign]
    with python(HOLD_THE_WRITE_LOCK, path) as other:
        assert other.heard() == "held"
        first = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1)))
        while not patience:  # noqa: ASYNC110 - the writer's thread tells nobody
            await asyncio.sleep(0)
        behind = asyncio.create_task(store.commit(Commit(address="session-2", epoch=1)))
        outcomes = await asyncio.gather(first, behind, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
        assert len(patience) == 2
        assert patience[1] < 0.5 < patience[0]
    await store.close()
