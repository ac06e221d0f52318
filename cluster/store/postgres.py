"""The shared store: a PostgreSQL database, for the silos of any number of hosts.

Every silo writes through one connection of its own, in groups (``postgres_writer``), and reads beside that in one or
two more (``postgres_reader``). What was acknowledged is in the server's log on disk, and on its synchronous standbys if
it has any. A store is the schema ``agentsilo`` of a database:
other schemas of the database are never touched, and a second cluster needs a second database. The role needs the
right to create that schema once, or an empty one that it owns. A pooler in between must keep a session on one
connection, because locks hang on it.
"""

import asyncio
import weakref
from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self

from actors.ports import Commit, Due, Opened, StoreUnavailable
from cluster.store.errors import UnusableStore
from cluster.store.operations import Answer, Open, Operation, RaiseEra, check
from cluster.store.postgres_url import parse
from cluster.store.statistics import StoreStatistics

if TYPE_CHECKING:
    from cluster.store.postgres_writer import PostgresWriter

# The driver and the server hold a commit in memory several times, and take less than 1 GiB as one message.
_LARGEST_COMMIT: Final = 512 * 1024 * 1024

_READ: Final = """
SELECT key, value FROM agentsilo.records WHERE address = $1 AND key >= $2 AND key < $3 ORDER BY key LIMIT $4
"""
_READ_NEWEST: Final = """
SELECT key, value FROM agentsilo.records WHERE address = $1 AND key >= $2 AND key < $3 ORDER BY key DESC LIMIT $4
"""
_STATE: Final = "SELECT state FROM agentsilo.actors WHERE address = $1"
_FLAGGED: Final = r"""
SELECT address, key, value FROM agentsilo.records
WHERE key >= '\x05' AND key < '\x06' AND (address, key) > ($1, $2)
ORDER BY address, key LIMIT $3
"""
# From host to host by the index, so that the rows of living ones are passed over, however many they are.
_DUE: Final = """
WITH RECURSIVE host (name) AS (
    (SELECT host FROM agentsilo.actors WHERE wake IS NOT NULL ORDER BY host LIMIT 1)
    UNION ALL
    SELECT (
        SELECT actor.host FROM agentsilo.actors AS actor
        WHERE actor.wake IS NOT NULL AND actor.host > host.name ORDER BY actor.host LIMIT 1
    )
    FROM host WHERE host.name IS NOT NULL
)
SELECT due.wake, due.address
FROM host CROSS JOIN LATERAL (
    SELECT actor.wake, actor.address FROM agentsilo.actors AS actor
    WHERE actor.host = host.name AND actor.wake <= $1 AND (actor.wake, actor.address) > ($2, $3)
    ORDER BY actor.wake, actor.address LIMIT $4
) AS due
WHERE host.name = '' OR host.name <> ALL ($5::text[])
ORDER BY due.wake, due.address LIMIT $4
"""


class PostgresStore:
    """A ``Store`` in a PostgreSQL database. Made by ``PostgresStore.open_url``.

    Operations of one address take effect in the order in which their coroutines are first awaited. Cancelling an
    await neither undoes nor prevents the effect. When the database is away, operations are retried for ``timeout``
    seconds, so that a quick restart of the server is not noticed, and then refused (``StoreUnavailable``); those of the
    same address that were called before whoever was refused has had its turn are refused with it. The store recovers
    by itself when the database does.

    An operation whose transaction was under way when the connection broke is in doubt until the database answers
    again, and is answered only then: neither success nor ``StoreUnavailable`` would be true before. Callers who cannot
    wait put a timeout around it, after which the outcome is unknown to them, too. ``close`` ends the waiting after
    ``timeout`` seconds, with ``OutcomeInDoubt``.

    A store belongs to the event loop in which it was opened.
    """

    def __init__(self, writer: "PostgresWriter") -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
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

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        """Raise the address's epoch and return what is stored; ``Fenced`` if a higher epoch has opened it."""
        _check_text(host)
        opened = await self._write(Open(address, epoch, host))
        assert isinstance(opened, Opened)
        return opened

    async def commit(self, commit: Commit) -> None:
        """Apply one turn's effects; ``Fenced`` unless its epoch is the address's highest.

        Raises ``ValueError`` for one that carries more than 512 MiB.
        """
        await self._write(commit)

    async def raise_era(self, atleast: int) -> int:
        """Raise the era to ``atleast`` and return it; 0 reads it."""
        era = await self._write(RaiseEra(atleast))
        assert isinstance(era, int)
        return era

    async def read(
        self, address: str, first: bytes, last: bytes, *, limit: int, newest: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Records of a range of keys, in ascending order."""
        _check_text(address)
        rows = await self._fetch(_READ_NEWEST if newest else _READ, address, first, last, limit)
        return [(key, value) for key, value in (reversed(rows) if newest else rows)]

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        """Addresses that somebody must see to, soonest first. Passes over the rows of ``hosts``."""
        for host in hosts:
            _check_text(host)
        behind = Due(-inf, "") if after is None else after
        rows = await self._fetch(_DUE, before, behind.wake, behind.address, limit, list(hosts))
        return [Due(wake, address) for wake, address in rows]

    async def flagged(self, *, after: tuple[str, bytes] = ("", b""), limit: int) -> list[tuple[str, bytes, bytes]]:
        """Flagged records of all addresses."""
        _check_text(after[0])
        rows = await self._fetch(_FLAGGED, *after, limit)
        return [(address, key, value) for address, key, value in rows]

    async def state(self, address: str) -> bytes | None:
        """The committed state."""
        _check_text(address)
        for (state,) in await self._fetch(_STATE, address):
            assert state is None or isinstance(state, bytes)
            return state
        return None

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

    async def _write(self, operation: Operation) -> Answer:
        self._check_open()
        size = check(operation)
        if not isinstance(operation, RaiseEra):
            _check_text(operation.address)
        if size > _LARGEST_COMMIT:
            raise ValueError(f"a commit of {size:,} bytes is too large; up to {_LARGEST_COMMIT:,} can be one")
        return await self._writer.submit(operation, size)

    async def _fetch(self, query: str, *arguments: object) -> list[Any]:
        self._check_open()
        return await self._writer.reader.fetch(query, *arguments)

    def _check_open(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self._writer.place}: a store belongs to the event loop in which it was opened")
        if self._closing:
            raise StoreUnavailable(f"{self._writer.place}: the store is closed")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"an address or host holds no zero byte: {text!r}")
    if not text.isascii():
        text.encode()  # raises UnicodeEncodeError here, before it meets others
