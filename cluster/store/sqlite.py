"""The embedded store: one SQLite file, for one silo or for the silos of one host.

Every silo writes in a thread of its own, in groups (``sqlite_writer``), to a file in WAL mode with
``synchronous=FULL``: what was acknowledged survives the loss of power, as far as the disk keeps its word.
"""

import asyncio
import os
import weakref
from pathlib import Path
from typing import Self

from actors.ports import Commit, StoreUnavailable
from cluster.store.sqlite_group import Answer, Delete, Open, Operation, RaiseEra
from cluster.store.sqlite_writer import SqliteWriter
from cluster.store.statistics import StoreStatistics

_LARGEST_INTEGER = 2**63 - 1


class SqliteStore:
    """A ``Store`` in an SQLite file. Made by ``SqliteStore.open_file``.

    Operations take effect in the order in which their coroutines are first awaited. Cancelling an await neither undoes
    nor prevents the effect. When the disk refuses an operation (``StoreUnavailable``), those of the same address that
    were called before the refusal was reported are refused with it; the store recovers by itself when the disk does.
    A store belongs to the event loop in which it was opened.
    """

    def __init__(self, writer: SqliteWriter, *, store_id: str) -> None:
        self._writer = writer
        self._id = store_id
        self._closing = False
        # A store that is dropped instead of closed ends its thread and gives the file's lock back.
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
        return cls(writer, store_id=store_id)

    @property
    def id(self) -> str:
        """The random id that the file got when it was created."""
        return self._id

    async def open(self, address: str, epoch: int) -> bytes | None:
        """Raise the address's epoch to ``epoch`` and return its state; ``Fenced`` if a higher one has opened it."""
        state = await self._run(Open(_storable_text(address), _storable(epoch)))
        assert state is None or isinstance(state, bytes)
        return state

    async def commit(self, commit: Commit) -> None:
        """Apply one turn's effects; ``Fenced`` unless its epoch is the address's highest."""
        _storable_text(commit.address)
        _storable(commit.epoch)
        await self._run(commit)

    async def delete(self, address: str, epoch: int) -> None:
        """Erase everything of the address but its epoch, fenced like a commit."""
        await self._run(Delete(_storable_text(address), _storable(epoch)))

    async def raise_era(self, atleast: int) -> int:
        """Raise the era to ``atleast`` and return it; 0 reads it."""
        era = await self._run(RaiseEra(_storable(atleast)))
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
            self._writer.stop()
        await asyncio.shield(self._writer.closed)
        self._writer.join()

    def statistics(self) -> StoreStatistics:
        """What this handle has done since it was opened."""
        return self._writer.statistics()

    async def _run(self, operation: Operation) -> Answer:
        self._check_open()
        return await self._writer.submit(operation)

    def _check_open(self) -> None:
        if self._closing:
            raise StoreUnavailable(f"{self._writer.path}: the store is closed")


def _storable(number: int) -> int:
    if not 0 <= number <= _LARGEST_INTEGER:
        raise ValueError(f"epochs and eras are from 0 to 2**63 - 1, not {number}")
    return number


def _storable_text(address: str) -> str:
    if not address.isascii():
        address.encode()  # raises UnicodeEncodeError here, where it fails one caller and not a group
    return address
