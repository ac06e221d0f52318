"""The shared store: a PostgreSQL database, for the silos of any number of hosts.

Every silo writes through one connection of its own, in groups (``postgres_writer``). What was acknowledged is in the
server's log on disk, and on its synchronous standbys if it has any. A store is the schema ``agentsilo`` of a database:
other schemas of the database are never touched, and a second cluster needs a second database. The role needs the
right to create that schema once, or an empty one that it owns. A pooler in between must keep a session on one
connection, because locks hang on it.
"""

import weakref
from typing import TYPE_CHECKING, Self

from actors.ports import Commit, StoreUnavailable
from cluster.store.errors import UnusableStore
from cluster.store.postgres_url import parse
from cluster.store.sqlite_group import Answer, Delete, Open, Operation, RaiseEra
from cluster.store.statistics import StoreStatistics

if TYPE_CHECKING:
    from cluster.store.postgres_writer import PostgresWriter

_LARGEST_INTEGER = 2**63 - 1


class PostgresStore:
    """A ``Store`` in a PostgreSQL database. Made by ``PostgresStore.open_url``.

    Operations of one address take effect in the order in which their coroutines are first awaited. Cancelling an
    await neither undoes nor prevents the effect. When the database is away, operations are retried for ``timeout``
    seconds, so that a quick restart of the server is not noticed, and then refused (``StoreUnavailable``); those of the
    same address that were called before the refusal was reported are refused with it. The store recovers by itself
    when the database does.

    An operation whose transaction was under way when the connection broke is in doubt until the database answers
    again, and is answered only then: neither success nor ``StoreUnavailable`` would be true before. Callers who cannot
    wait put a timeout around it, after which the outcome is unknown to them, too. ``close`` ends the waiting after
    ``timeout`` seconds, with ``OutcomeInDoubt``.

    A store belongs to the event loop in which it was opened.
    """

    def __init__(self, writer: "PostgresWriter") -> None:
        self._writer = writer
        self._closing = False
        # A store that is dropped instead of closed ends its task and gives the lock back.
        weakref.finalize(self, writer.stop_from_anywhere).atexit = False

    @classmethod
    async def open_url(cls, url: str, *, timeout: float = 5.0) -> Self:
        """Connect to ``postgresql://user:password@host:port/database?sslmode=...``; make the schema if there is none.

        The URL is as in libpq, several hosts and Unix sockets included; what it leaves out comes from ``PGPASSWORD``,
        ``~/.pgpass`` and the like. ``timeout`` is how many seconds an operation waits for a database that is away.
        Raises ``ValueError`` for a URL that makes no sense; ``UnusableStore`` if asyncpg is not installed, the server
        refuses the user, database or encryption, or the schema is not one of this release (it is then unchanged);
        ``StoreInUse`` if a silo has the store for itself; ``StoreUnavailable`` if the database is away. Cancelling
        gives everything back.
        """
        parsed = parse(url)
        if timeout <= 0:
            raise ValueError(f"timeout is a positive number of seconds, not {timeout}")
        try:
            from cluster.store.postgres_writer import PostgresWriter
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise UnusableStore(
                f"{parsed.place}: the driver asyncpg is not installed; pip install 'agentsilo[postgres]'"
            ) from error
        writer = PostgresWriter(parsed, timeout=timeout)
        await writer.start()
        return cls(writer)

    @property
    def id(self) -> str:
        """The random id that the schema got when it was created."""
        return self._writer.id

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
        """Claim the database for this store alone, until it is closed or its connection ends.

        For an embedded silo, whose directory nobody else can see. Raises ``StoreInUse`` if another store has the
        database open, and ``StoreUnavailable``; the shared lock is then kept. A store that lost its connection takes
        the lock again with the next one; if somebody else has come in between, its operations are refused.
        """
        self._check_open()
        await self._writer.lock_exclusively()

    async def close(self) -> None:
        """Finish what was called before, and close the connection. May be called again, also concurrently.

        Takes as long as the operations that wait, and ``timeout`` seconds more at most for those in doubt. Cancelling
        the await does not stop the closing.
        """
        if not self._closing:
            self._closing = True
            self._writer.stop()
        await self._writer.wait_closed()

    def statistics(self) -> StoreStatistics:
        """What this handle has done since it was opened."""
        return self._writer.statistics()

    async def _run(self, operation: Operation) -> Answer:
        self._check_open()
        return await self._writer.submit(operation)

    def _check_open(self) -> None:
        if self._closing:
            raise StoreUnavailable(f"{self._writer.place}: the store is closed")


def _storable(number: int) -> int:
    if not 0 <= number <= _LARGEST_INTEGER:
        raise ValueError(f"epochs and eras are from 0 to 2**63 - 1, not {number}")
    return number


def _storable_text(address: str) -> str:
    if "\0" in address:
        raise ValueError(f"an address holds no zero byte: {address!r}")
    if not address.isascii():
        address.encode()  # raises UnicodeEncodeError here, where it fails one caller and not a group
    return address
