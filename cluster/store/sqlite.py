"""The embedded store: one SQLite file, for one silo or for the silos of one host.

Every silo writes in a thread of its own, in groups (``sqlite_writer``), to a file in WAL mode with
``synchronous=FULL``: what was acknowledged survives the loss of power, as far as the disk keeps its word. It reads in
another thread (``sqlite_reader``), which waits for no writer.
"""

import asyncio
import os
import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Self

from actors.ports import Commit, Due, Opened, StoreUnavailable
from cluster.store.operations import Open, RaiseEra
from cluster.store.sqlite_read import (
    DueQuery,
    FlagQuery,
    Range,
    read_due,
    read_flagged,
    read_ranges,
    read_states,
)
from cluster.store.sqlite_reader import SqliteReader
from cluster.store.sqlite_writer import SqliteWriter
from cluster.store.statistics import StoreStatistics


class SqliteStore:
    """A ``Store`` in an SQLite file. Made by ``SqliteStore.open_file``.

    Writing operations take effect in the order in which their coroutines are first awaited. Cancelling an await
    neither undoes nor prevents the effect. When the disk refuses an operation (``StoreUnavailable``), those of the
    same address that were called before the refusal was reported are refused with it; the store recovers by itself
    when the disk does. A store belongs to the event loop in which it was opened.
    """

    def __init__(self, writer: SqliteWriter, reader: SqliteReader, *, store_id: str) -> None:
        self._writer = writer
        self._reader = reader
        self._id = store_id
        self._closing = False
        # A store that is dropped instead of closed ends its threads and gives the file's lock back.
        weakref.finalize(self, reader.stop).atexit = False
        weakref.finalize(self, writer.stop).atexit = False

    @classmethod
    async def open_file(cls, path: str | os.PathLike[str], *, busy_timeout: float = 5.0) -> Self:
        """Open the file, create it if it is missing or empty, and take a shared lock on it (``<path>.lock``).

        ``busy_timeout`` is how many seconds an operation waits for other processes that write. Raises
        ``UnusableStore`` if the file is not a store of this release (it is then unchanged), ``StoreInUse`` if a silo
        has it for itself, ``StoreUnavailable`` if the disk is full or the file busy. Cancelling gives everything back.
        """
        writer = SqliteWriter(Path(path), busy_timeout=busy_timeout)
        try:
            store_id = await writer.opened
        except BaseException:
            writer.stop()
            raise
        reader = SqliteReader(writer.path, store_id=store_id, busy_timeout=busy_timeout)
        return cls(writer, reader, store_id=store_id)

    @property
    def id(self) -> str:
        """The random id that the file got when it was created."""
        return self._id

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        """Raise the address's epoch and return what is stored; ``Fenced`` if a higher epoch has opened it."""
        self._check_open()
        opened = await self._writer.submit(Open(address, epoch, host))
        assert isinstance(opened, Opened)
        return opened

    async def commit(self, commit: Commit) -> None:
        """Apply one turn's effects; ``Fenced`` unless its epoch is the address's highest."""
        self._check_open()
        await self._writer.submit(commit)

    async def read(
        self, address: str, first: bytes, last: bytes, *, limit: int, newest: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Records of a range of keys, in ascending order."""
        self._check_open()
        return await self._reader.ask(read_ranges, Range(address, first, last, limit, newest))

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        """Addresses that somebody must see to, soonest first."""
        self._check_open()
        return await self._reader.ask(read_due, DueQuery(before, frozenset(hosts), after, limit))

    async def flagged(self, *, after: tuple[str, bytes] = ("", b""), limit: int) -> list[tuple[str, bytes, bytes]]:
        """Flagged records of all addresses, by address and key."""
        self._check_open()
        return await self._reader.ask(read_flagged, FlagQuery(after, limit))

    async def state(self, address: str) -> bytes | None:
        """The committed state."""
        self._check_open()
        return await self._reader.ask(read_states, address)

    async def raise_era(self, atleast: int) -> int:
        """Raise the era to ``atleast`` and return it; 0 reads it."""
        self._check_open()
        era = await self._writer.submit(RaiseEra(atleast))
        assert isinstance(era, int)
        return era

    async def lock_exclusively(self) -> None:
        """Claim the file for this store alone, until it is closed or the process ends, however it ends.

        For an embedded silo, whose directory nobody else can see. Raises ``StoreInUse`` if another store, in this
        process or another, has the file open; the shared lock is then kept.
        """
        self._check_open()
        self._writer.lock_exclusively()

    async def close(self) -> None:
        """Finish what was called before, and release the file and its lock. May be called again, also concurrently.

        Cancelling the await does not stop the closing.
        """
        if not self._closing:
            self._closing = True
            self._reader.stop()
            self._writer.stop()
        await self._reader.wait_closed()
        await asyncio.shield(self._writer.closed)
        self._writer.join()

    def statistics(self) -> StoreStatistics:
        """What this handle has done since it was opened."""
        return self._writer.statistics()

    def _check_open(self) -> None:
        if self._closing:
            raise StoreUnavailable(f"{self._writer.path}: the store is closed")
