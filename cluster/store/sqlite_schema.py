"""The SQLite file: which files are ours, how a connection is set up, and the tables, one migration per version.

A file is ours if its ``application_id`` is; its version is ``user_version``, the number of migrations that were
applied.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from random import uniform
from typing import Final, TypeVar

from cluster.store.errors import StoreInUse, UnusableStore
from cluster.store.file_lock import FileLock

APPLICATION_ID: Final = 0x5349_4C4F  # "SILO"

# Released migrations are never edited: a change of the schema is a new entry at the end.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE store (id TEXT NOT NULL, era INTEGER NOT NULL)",
        "INSERT INTO store (id, era) VALUES (lower(hex(randomblob(16))), 0)",
        # The epoch stays when the rest of an actor is deleted. States are apart because SQLite writes whole rows:
        # raising the epoch must not copy a large state.
        "CREATE TABLE actors (id INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL)",
        "CREATE TABLE states (actor INTEGER PRIMARY KEY, state BLOB NOT NULL)",
    ),
    (
        # Without rowid, so that a turn, which puts and drops a few small records of one actor, changes one page: that
        # is 1.7 times as fast as a table with rowid and an index. Such a table would be 1.5 times as fast at values
        # from 4 kB on, and for appending small ones.
        """CREATE TABLE records (
            actor INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (actor, key)
        ) WITHOUT ROWID""",
        # SQLite looks up a list of (actor, key) by actor alone. Inserting into these deletes each row by its key.
        "CREATE VIEW drops (actor, key) AS SELECT NULL, NULL WHERE false",
        """CREATE TRIGGER drop_record INSTEAD OF INSERT ON drops BEGIN
            DELETE FROM records WHERE actor = new.actor AND key = new.key;
        END""",
        "CREATE VIEW cuts (actor, first, last) AS SELECT NULL, NULL, NULL WHERE false",
        """CREATE TRIGGER cut_records INSTEAD OF INSERT ON cuts BEGIN
            DELETE FROM records WHERE actor = new.actor AND key >= new.first AND key < new.last;
        END""",
        "CREATE INDEX flagged ON records (actor, key) WHERE key >= x'05' AND key < x'06'",
        "ALTER TABLE actors ADD COLUMN wake REAL",
        "ALTER TABLE actors ADD COLUMN host TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX due ON actors (host, wake, address) WHERE wake IS NOT NULL",
    ),
)

_HEADER_BYTES: Final = 100
_OLDEST_SQLITE: Final = (3, 33)
_LIMIT_WAL_FILE: Final = 64 * 1024 * 1024

_T = TypeVar("_T")


def refuse_foreign(path: Path) -> None:
    """Raise ``UnusableStore`` unless the file is ours and of a version that we know, or not there yet.

    Only reads the file's header, by an "immutable" connection: a usual one changes a file by its mere opening and
    closing (recovery, checkpoint). And only by SQLite: to close another descriptor of the file would, by the rules of
    POSIX, end the locks that this process's connections hold on it.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise UnusableStore(f"this Python has SQLite {sqlite3.sqlite_version}; the store needs 3.33 or newer")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UnusableStore(f"{path}: the directory {path.parent} does not exist; create it first") from None
        return
    except OSError as error:
        raise UnusableStore(f"{path}: cannot be read: {error.strerror}") from error
    if path.is_dir():
        raise UnusableStore(f"{path}: cannot be read: Is a directory")
    if size == 0:
        return
    if size < _HEADER_BYTES:  # to SQLite this would be as good as empty
        raise UnusableStore(f"{path}: is not an SQLite file; it was not touched. Choose another path")
    try:
        with contextlib.closing(_open_immutable(path)) as connection:
            application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    except sqlite3.Error as error:
        if _code(error) == sqlite3.SQLITE_NOTADB:
            raise UnusableStore(f"{path}: is not an SQLite file; it was not touched. Choose another path") from None
        raise UnusableStore(f"{path}: cannot be read: {error}") from error
    if application != APPLICATION_ID:
        raise UnusableStore(
            f"{path}: is an SQLite file of another application; it was not touched. Choose another path"
        )
    _refuse_newer(version, path)


def _open_immutable(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    # Else it would call a file malformed that is shorter than its header says, as one is whose checkpoint was cut short
    # by a crash or a full disk. Its log still has the rest.
    connection.execute("PRAGMA writable_schema = ON")
    return connection


def connect(path: Path, *, lock: FileLock, busy_timeout: float) -> sqlite3.Connection:
    """Open the store file, which ``refuse_foreign`` has let pass; create it if it is missing or empty, and bring its
    schema up to date.

    Waits up to ``busy_timeout`` seconds for other processes. Raises ``UnusableStore`` or ``sqlite3.Error``.
    """
    deadline = time.monotonic() + busy_timeout
    # The writer's connection is used by the writer thread alone, which has no use for Python's transaction handling.
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=512)
    try:
        when_free(lambda: _set_up(connection, path), deadline=deadline)
        when_free(lambda: _migrate(connection, path, lock), deadline=deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Another connection to a file that ``connect`` has set up, for reading alone. Never creates the file."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


def when_free(action: Callable[[], _T], *, deadline: float) -> _T:
    """Repeat the action while other processes hold the file, until ``time.monotonic()`` reaches the deadline.

    SQLite's own waiting backs off to 100 ms and is skipped in some cases. Processes that write without a pause leave
    gaps of a fraction of a millisecond, which short random waits find soon and fairly.
    """
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(uniform(0.0002, 0.002))


def is_busy(error: sqlite3.Error) -> bool:
    """Whether the error means that another process holds the file, in any of its variants."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def may_pass(error: sqlite3.Error) -> bool:
    """Whether the error may go away without anybody changing what is configured."""
    return is_busy(error) or _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code. Errors of the Python module itself have none.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _refuse_newer(version: int, path: Path) -> None:
    if version > len(MIGRATIONS):
        raise UnusableStore(
            f"{path}: was written by a newer release (format {version}, this release knows {len(MIGRATIONS)}); "
            "it was not touched. Upgrade this silo, or choose another path"
        )


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") == 0 and _pragma(connection, "page_count") == 0:
        # First of all, and still in a rollback journal: whatever is interrupted after this, the file is known as ours.
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise UnusableStore(f"{path}: another application has just created this file. Choose another path")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise UnusableStore(f"{path}: its file system cannot hold a write-ahead log (journal mode {mode}); use a disk")
    connection.execute("PRAGMA synchronous = FULL")  # a commit returns after the fsync of the log
    connection.execute(f"PRAGMA journal_size_limit = {_LIMIT_WAL_FILE}")


def _migrate(connection: sqlite3.Connection, path: Path, lock: FileLock) -> None:
    version = _pragma(connection, "user_version")
    _refuse_newer(version, path)
    if version == len(MIGRATIONS):
        return
    held_alone = lock.exclusive
    if version > 0:
        try:
            lock.take_exclusively()
        except StoreInUse as error:
            raise StoreInUse(
                f"{path}: silos of an older release use this store (format {version}); stop them before this release "
                f"upgrades it to format {len(MIGRATIONS)}"
            ) from error
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Again: another process may have created the file in the meantime.
            for migration in MIGRATIONS[_pragma(connection, "user_version") :]:
                for statement in migration:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute("COMMIT")
            # Into the header, where refuse_foreign looks, even if this process does not live to close the file.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    finally:
        if lock.exclusive and not held_alone:
            lock.take_shared()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value = connection.execute(f"PRAGMA {name}").fetchone()[0]
    assert isinstance(value, int)
    return value
