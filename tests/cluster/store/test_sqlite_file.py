"""Which files are opened, created, upgraded or refused."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from actors.ports import Commit, Due, Fenced, Opened, StoreUnavailable
from cluster.store import SqliteStore, StoreInUse, UnusableStore, sqlite_schema
from tests.cluster.store.processes import python, run_python

VERSION = len(sqlite_schema.MIGRATIONS)
NEXT_MIGRATION = ("ALTER TABLE actors ADD COLUMN colour TEXT", "UPDATE actors SET colour = 'red'")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "silo.db"


def become_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, NEXT_MIGRATION))


def files(folder: Path) -> dict[str, bytes]:
    """Everything that is there, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def query(path: Path, sql: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchone()[0]


async def open_and_close(path: Path) -> str:
    store = await SqliteStore.open_file(path)
    await store.close()
    return store.id


async def test_a_new_file_is_marked_as_ours_and_has_a_log(path: Path) -> None:
    await open_and_close(path)
    assert query(path, "PRAGMA application_id") == sqlite_schema.APPLICATION_ID
    assert query(path, "PRAGMA user_version") == VERSION
    assert query(path, "PRAGMA journal_mode") == "wal"
    assert set(files(path.parent)) == {"silo.db", "silo.db.lock"}


def test_an_empty_file_is_a_new_file(path: Path) -> None:
    path.touch()
    asyncio.run(open_and_close(path))
    assert query(path, "PRAGMA user_version") == VERSION


async def test_many_that_create_the_file_at_once_make_one_store(path: Path) -> None:
    stores = await asyncio.gather(*(SqliteStore.open_file(path) for _ in range(8)))
    assert len({store.id for store in stores}) == 1
    await asyncio.gather(*(store.close() for store in stores))
    assert query(path, "SELECT count(*) FROM store") == 1


async def test_creation_that_was_cut_short_is_completed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {sqlite_schema.APPLICATION_ID}")
    await open_and_close(path)
    assert query(path, "PRAGMA user_version") == VERSION


@pytest.mark.parametrize("content", [b"x", b"hello, world\n" * 1000, b"SQLite format 3", b"\0" * 4096])
def test_a_file_that_is_not_sqlite_is_refused_untouched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UnusableStore, match="not an SQLite file"):
        asyncio.run(open_and_close(path))
    assert files(path.parent) == {"silo.db": content}


async def test_anothers_sqlite_file_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = files(path.parent)
    with pytest.raises(UnusableStore, match="another application"):
        await SqliteStore.open_file(path)
    assert files(path.parent) == before


async def test_anothers_log_is_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (x)")
        before = files(path.parent)
        with pytest.raises(UnusableStore, match="another application"):
            await SqliteStore.open_file(path)
        assert files(path.parent) == before


async def test_a_newer_file_is_refused_untouched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become_newer(monkeypatch)
    await open_and_close(path)
    before = files(path.parent)
    monkeypatch.undo()
    with pytest.raises(UnusableStore, match=f"newer release .format {VERSION + 1}, this release knows {VERSION}"):
        await SqliteStore.open_file(path)
    assert files(path.parent) == before


async def test_a_new_version_shows_before_the_file_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become_newer(monkeypatch)
    newer = await SqliteStore.open_file(path)
    monkeypatch.undo()
    before = files(path.parent)
    with pytest.raises(UnusableStore, match="newer release"):
        await SqliteStore.open_file(path)
    assert files(path.parent) == before
    await newer.close()


async def test_an_older_file_is_upgraded_and_keeps_what_it_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await SqliteStore.open_file(path)
    await old.open("session-1", 7)
    await old.commit(Commit(address="session-1", epoch=7, state=b"one"))
    await old.close()
    become_newer(monkeypatch)
    new = await SqliteStore.open_file(path)
    assert new.id == old.id
    assert (await new.open("session-1", 7)).state == b"one"
    assert query(path, "SELECT colour FROM actors") == "red"
    other = await SqliteStore.open_file(path)  # the lock of the upgrade is shared again
    await other.close()
    await new.close()


FORMAT_1 = f"""
PRAGMA application_id = {0x5349_4C4F};
PRAGMA journal_mode = WAL;
CREATE TABLE store (id TEXT NOT NULL, era INTEGER NOT NULL);
INSERT INTO store (id, era) VALUES ('0123456789abcdef0123456789abcdef', 3);
CREATE TABLE actors (id INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL);
CREATE TABLE states (actor INTEGER PRIMARY KEY, state BLOB NOT NULL);
INSERT INTO actors (id, address, epoch) VALUES (1, 'session-1', 7), (2, 'session-2', 8);
INSERT INTO states (actor, state) VALUES (1, x'6f6e65');
PRAGMA user_version = 1;
"""


async def test_a_file_of_format_1_keeps_its_states_and_takes_records(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FORMAT_1)
    store = await SqliteStore.open_file(path)
    assert (store.id, await store.raise_era(0)) == ("0123456789abcdef0123456789abcdef", 3)
    with pytest.raises(Fenced):
        await store.open("session-1", 6)
    assert await store.state("session-1") == b"one"
    assert await store.open("session-1", 7, "a.1") == Opened(b"one", {})
    assert await store.open("session-2", 8) == Opened()
    await store.commit(Commit(address="session-1", epoch=7, put={b"\5": b"1"}, wake=1.0))
    assert await store.open("session-1", 8) == Opened(b"one", {b"\5": b"1"})
    assert await store.due(1.0, hosts=(), limit=9) == [Due(1.0, "session-1")]
    assert await store.flagged(limit=9) == [("session-1", b"\5", b"1")]
    await store.close()


def test_a_file_whose_checkpoint_was_cut_short_is_opened(path: Path) -> None:
    code = """
    async def main():
        store = await SqliteStore.open_file(sys.argv[1])
        await store.open("session-1", 1)
        await store.commit(Commit(address="session-1", epoch=1, state=bytes(500_000)))
        say("written")
        wait()
    asyncio.run(main())
    """
    with python(code, path) as writer:
        assert writer.heard() == "written"
        writer.process.kill()
        writer.process.wait()
    content = bytearray(path.read_bytes())
    content[28:32] = (1000).to_bytes(4, "big")  # pages: the header has been copied from the log, the pages have not
    content[92:96] = content[24:28]  # which makes it valid
    path.write_bytes(content)

    async def state() -> bytes | None:
        store = await SqliteStore.open_file(path)
        try:
            return await store.state("session-1")
        finally:
            await store.close()

    assert asyncio.run(state()) == bytes(500_000)


async def test_looking_at_the_file_keeps_the_locks_of_this_process(path: Path) -> None:
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    sqlite_schema.refuse_foreign(path)
    other = "import sqlite3; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode = DELETE').fetchone())"
    with pytest.raises(AssertionError):
        run_python(other, path)  # it would have to be alone on the file
    await store.close()
    assert "delete" in run_python(other, path)


async def test_no_upgrade_under_the_feet_of_an_older_silo(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await SqliteStore.open_file(path)
    become_newer(monkeypatch)
    with pytest.raises(StoreInUse, match="silos of an older release use this store"):
        await SqliteStore.open_file(path)
    assert query(path, "PRAGMA user_version") == VERSION
    await old.close()
    await open_and_close(path)
    assert query(path, "PRAGMA user_version") == VERSION + 1


async def test_an_upgrade_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_and_close(path)
    monkeypatch.setattr(
        sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, (*NEXT_MIGRATION, "INSERT INTO missing VALUES (1)"))
    )
    with pytest.raises(UnusableStore, match="no such table: missing"):
        await SqliteStore.open_file(path)
    monkeypatch.undo()
    assert query(path, "PRAGMA user_version") == VERSION
    await open_and_close(path)


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableStore, match=f"the directory {tmp_path}/nowhere does not exist"):
        await SqliteStore.open_file(tmp_path / "nowhere" / "silo.db")
    assert files(tmp_path) == {}


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnusableStore, match="Is a directory"):
        await SqliteStore.open_file(tmp_path)


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


async def test_a_file_that_vanished_is_not_silently_made_anew(path: Path) -> None:
    store = await SqliteStore.open_file(path)
    store._writer._disconnect()  # as after an I/O error
    remove(path)
    with pytest.raises(StoreUnavailable, match="the file was removed while it was in use"):
        await store.open("session-1", 1)
    with pytest.raises(StoreUnavailable, match="the file was removed while it was in use"):
        await store.state("session-1")
    assert files(path.parent) == {}
    await open_and_close(path)
    with pytest.raises(StoreUnavailable, match="replaced by another store"):
        await store.open("session-1", 1)
    with pytest.raises(StoreUnavailable, match="replaced by another store"):
        await store.state("session-1")
    await store.close()


async def test_nothing_is_acknowledged_that_goes_to_a_file_without_a_name(path: Path, tmp_path: Path) -> None:
    store = await SqliteStore.open_file(path)
    await store.open("session-1", 1)
    await store.commit(Commit(address="session-1", epoch=1, state=b"before"))
    away = tmp_path / "away"
    away.mkdir()
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        file.rename(away / file.name)
    with pytest.raises(StoreUnavailable, match="the file was removed while it was in use"):
        await store.commit(Commit(address="session-1", epoch=1, state=b"lost"))
    for file in away.iterdir():
        file.rename(tmp_path / file.name)
    assert await store.open("session-1", 1) == Opened(b"before")  # nothing of what was refused took effect
    await store.commit(Commit(address="session-1", epoch=1, state=b"after"))
    remove(path)
    await open_and_close(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"another file was put in its place|replaced by another store"):
            await store.commit(Commit(address="session-1", epoch=1, state=b"lost"))
        await asyncio.sleep(0)  # what is called in the same step counts as called before the report
    await store.close()
