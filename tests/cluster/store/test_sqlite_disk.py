"""A disk that is full refuses whole commits, and the store goes on by itself once there is space."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from actors.ports import Commit, StoreUnavailable
from cluster.store import SqliteStore, sqlite_schema
from tests.cluster.store.processes import run_python
from tests.cluster.store.sqlite_gate import Gate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo.db"


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
    await store.commit(Commit(address="session-1", epoch=1, state=b"small"))
    disk.full = True
    disk.limit()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"the disk is full .*; nothing was written") as refusal:
            await store.commit(Commit(address="session-1", epoch=1, state=bytes(1_000_000)))
        assert "\n" not in str(refusal.value)
        await asyncio.sleep(0)  # until then others may not know of the refusal, and build on it
    assert (await store.open("session-1", 1)).state == b"small"  # nothing of it took effect
    await store.commit(Commit(address="session-1", epoch=1, state=b"fits"))
    disk.full = False
    disk.limit()
    await store.commit(Commit(address="session-1", epoch=1, state=bytes(1_000_000)))
    assert (await store.open("session-1", 1)).state == bytes(1_000_000)
    await store.close()


@pytest.mark.parametrize("large", [{"state": bytes(1_000_000)}, {"put": {b"a": b"new", b"\x80": bytes(1_000_000)}}])
async def test_nothing_of_a_refused_commit_is_applied(
    path: Path, monkeypatch: pytest.MonkeyPatch, large: dict[str, Any]
) -> None:
    disk = Disk(monkeypatch)
    store = await SqliteStore.open_file(path)
    before = {b"a": b"1", b"b": b"1", b"c": b"1"}
    await asyncio.gather(*(store.open(f"session-{number}", 1, "a.1") for number in range(3)))
    await asyncio.gather(
        *(store.commit(Commit(address=f"session-{number}", epoch=1, put=before, wake=9.0)) for number in range(3))
    )
    disk.full = True
    disk.limit()
    gate = Gate(store)
    first = asyncio.create_task(store.state("session-0"))
    alone = asyncio.create_task(store.commit(Commit(address="session-0", epoch=1, wake=9.0)))
    await gate.wait_until_reached()
    effects: dict[str, Any] = {"drop": [b"b"], "cut": [(b"c", b"d")], "wake": 1.0, "asleep": True, "erase": True}
    group = [Commit(address="session-1", epoch=1, **effects | large), Commit(address="session-2", epoch=1, **effects)]
    tasks = [asyncio.create_task(store.commit(commit)) for commit in group]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(first, alone, *tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[2:]] == [StoreUnavailable] * 2  # as one group
    for number in range(3):
        assert dict(await store.read(f"session-{number}", b"a", b"\xff", limit=9)) == before
    assert len(await store.due(9.0, hosts=(), limit=9)) == 3
    assert await store.due(9.0, hosts=("a.1",), limit=9) == []
    assert await store.due(8.0, hosts=(), limit=9) == []
    await store.commit(Commit(address="session-0", epoch=1))  # on a new connection
    disk.full = False
    disk.limit()
    await asyncio.gather(*(store.commit(commit) for commit in group))
    assert await store.read("session-2", b"a", b"\xff", limit=9) == []
    assert dict(await store.read("session-1", b"a", b"\xff", limit=9)) == large.get("put", {})
    assert len(await store.due(1.0, hosts=("a.1",), limit=9)) == 2
    await store.close()


async def test_nothing_is_applied_on_top_of_a_refusal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    store = await SqliteStore.open_file(path)
    await asyncio.gather(store.open("session-1", 1), store.open("session-2", 1))
    disk.full = True
    disk.limit()
    gate = Gate(store)
    too_large = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=bytes(1_000_000))))
    await gate.wait_until_reached()
    behind_it = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"behind")))
    another = asyncio.create_task(store.commit(Commit(address="session-2", epoch=1, state=b"another")))
    await asyncio.sleep(0)  # they have been submitted, before the refusal can have been reported
    gate.open.set()
    outcomes = await asyncio.gather(too_large, behind_it, another, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable, type(None)]
    await store.commit(Commit(address="session-1", epoch=1, state=b"called after the report"))
    assert (await store.open("session-1", 1)).state == b"called after the report"
    await store.close()


FILL_AND_FREE = """
def nth(number):
    name = b"%08d" % number
    put = {b"a" + name: name, b"\\x80" + name: name * 5_000, b"\\x81": name}
    return Commit(address="session-1", epoch=1, state=name + bytes(50_000), put=put, drop=[b"a%08d" % (number - 1)])

async def check(store, done):
    name = b"%08d" % done
    assert (await store.state("session-1")).startswith(name), done
    assert await store.read("session-1", b"a", b"b", limit=9) == [(b"a" + name, name)], done
    cold = [key for key, _ in await store.read("session-1", b"\\x80", b"\\x81", limit=2000)]
    assert cold == [b"\\x80%08d" % number for number in range(1, done + 1)], done
    assert await store.read("session-1", b"\\x81", b"\\x82", limit=9) == [(b"\\x81", name)], done

async def main(path, fill, free):
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    fill()
    done = 0
    try:
        while done < 1000:
            await store.commit(nth(done + 1))
            done += 1
    except StoreUnavailable as error:
        say(str(error))
    assert 0 < done < 1000, done
    await check(store, done)
    free()
    await check(store, done)
    opened = await store.open("session-1", 1)
    assert opened.state.startswith(b"%08d" % done), done
    for number in range(done + 1, done + 10):
        await store.commit(nth(number))
    await check(store, done + 9)
    await store.close()
    store = await SqliteStore.open_file(path)
    await check(store, done + 9)
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
