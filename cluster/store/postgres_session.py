"""One connection to the database, and what is certain about a group that it was sent.

PostgreSQL says "committed" only after the log is on disk (``synchronous_commit``), but that word can get lost. So each
connection has a row of its own in ``sessions``, in which every group leaves its number and its answer, in the same
transaction as its effects. Whoever lost a connection *ends* its row from another one: that waits for a transaction
that is under way, tells whether the group was applied and with what answer, and makes sure that a group which is
still in some network buffer never will be.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, Self, TypeAlias, TypeVar
from uuid import UUID, uuid4

import asyncpg

from cluster.store import postgres_schema
from cluster.store.errors import UnusableStore
from cluster.store.postgres_driver import Connection, connect, is_fatal, one_line, sqlstate
from cluster.store.postgres_group import Reply, Request
from cluster.store.postgres_url import PostgresUrl

Backend: TypeAlias = tuple[int, datetime]  # its process id and when it was started: ids are used again
_T = TypeVar("_T")

# Rows of silos that died go after a week. A live one that wrote nothing for so long makes itself another.
_FORGET_THE_DEAD: Final = """
DELETE FROM agentsilo.sessions WHERE id IN (
    SELECT id FROM agentsilo.sessions WHERE touched < now() - interval '7 days' FOR UPDATE SKIP LOCKED
)
"""
_TRY_AGAIN: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# The connection is of no use any more: the session was ended, or the server is a standby by now.
_ANOTHER_CONNECTION: Final = frozenset({"AS001", "25006"})
# Refusals to connect that pass: the connection broke, too many of them, starting up or shutting down, locks, I/O.
_PASSING_CLASSES: Final = ("08", "40", "53", "55", "57", "58")


class Lost(Exception):
    """The connection is gone or could not be made, for a reason that may pass. Says nothing of what was sent."""


class TryAgain(Exception):
    """The database refused the request, which had no effect, for a reason that has passed already."""


class PostgresSession:
    """A connection that is set up and holds the store's lock. Made by ``connect``; for one task at a time."""

    def __init__(self, connection: Connection, *, place: str, limit: float) -> None:
        self._connection = connection
        self._place = place
        self._limit = limit
        self._number = 0
        self.id: UUID = uuid4()
        self.store_id = ""
        self.backend: Backend

    @classmethod
    async def connect(
        cls,
        url: PostgresUrl,
        *,
        limit: float,
        patience: float,
        exclusively: bool = False,
        may_migrate: bool = False,
        ghosts: list[Backend],
    ) -> Self:
        """Connect within ``patience`` seconds. No later request takes more than ``limit`` seconds.

        ``ghosts`` are backends of connections that this handle lost: they are terminated first, as they may still
        hold locks, and taken off the list. Raises ``UnusableStore``, ``Lost`` or ``ValueError``.
        """
        connection: Connection | None = None
        try:
            async with asyncio.timeout(patience):
                connection = await connect(url.dsn, timeout=patience + 1, settings=_settings(limit))
                session = cls(connection, place=url.place, limit=limit)
                await session._set_up(exclusively=exclusively, may_migrate=may_migrate, ghosts=ghosts)
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if isinstance(error, Exception):
                _raise_why(error, url.place, patience)
            raise
        return session

    async def _set_up(self, *, exclusively: bool, may_migrate: bool, ghosts: list[Backend]) -> None:
        connection = self._connection
        # "off", "local" and "remote_write" acknowledge what a crash can take back.
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
        )
        for ghost in list(ghosts):
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
                *ghost,
            )
            ghosts.remove(ghost)
        self.store_id = await postgres_schema.prepare(
            connection, self._place, exclusively=exclusively, may_migrate=may_migrate
        )
        ((pid, started),) = await connection.fetch(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        self.backend = pid, started
        await connection.execute(_FORGET_THE_DEAD)
        await connection.execute("INSERT INTO agentsilo.sessions (id) VALUES ($1)", self.id)

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return self._connection.is_closed()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back when the connection is gone, however it went."""
        self._connection.add_termination_listener(lambda _connection: callback())

    async def ping(self) -> None:
        """Return if the server answers: only then is it worth being in doubt about what it did. Raises ``Lost``."""
        await self._within_limit(self._connection.execute("SELECT"))

    async def apply(self, request: Request) -> Reply:
        """Run the group as one transaction. When this returns, it is durable.

        Raises ``Lost``: it may have been applied, which ``end`` tells; ``TryAgain`` or ``asyncpg.PostgresError``: it
        was not applied.
        """
        self._number += 1
        # Not `fetchrow`, which stops before the statement's end.
        ((epochs, states, era),) = await self._within_limit(
            self._connection.fetch(
                "SELECT * FROM agentsilo.apply($1, $2, $3, $4, $5, $6, $7, $8)",
                self.id,
                self._number,
                request.addresses,
                request.opened,
                request.written,
                request.owners,
                request.states,
                request.atleast,
            )
        )
        return Reply(epochs or (), states or (), era)

    async def end(self, lost: "PostgresSession") -> Reply | None:
        """What became of the last group of a lost session: None if it was not applied, and now never will be.

        May be repeated. Raises ``Lost``, ``TryAgain`` or ``asyncpg.PostgresError``: unknown yet.
        """
        # A durable write of our own: what was committed before it is durable, too, and replicated if this is.
        rows = await self._within_limit(
            self._connection.fetch(
                "UPDATE agentsilo.sessions SET ended = true, touched = now() WHERE id = $1 RETURNING number, epochs",
                lost.id,
            )
        )
        if not rows or rows[0][0] != lost._number:
            return None
        return Reply(rows[0][1] or (), None, None)

    async def lock_exclusively(self) -> None:
        """Hold the store alone. Raises ``StoreInUse``, ``Lost`` or ``asyncpg.PostgresError``."""
        await self._within_limit(postgres_schema.lock(self._connection, self._place, exclusively=True))

    async def close(self) -> None:
        """Give the lock back and close the connection. Whatever goes wrong with that, it is closed afterwards."""
        with suppress(Lost, TryAgain, asyncpg.PostgresError):
            delete = "DELETE FROM agentsilo.sessions WHERE id = $1"
            await self._within_limit(self._connection.execute(delete, self.id))
            # The server would do so by itself, but only a moment after this returns.
            await self._within_limit(self._connection.execute("SELECT pg_advisory_unlock_all()"))
            await self._within_limit(self._connection.close())
        self.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._connection.terminate()

    async def _within_limit(self, request: Awaitable[_T]) -> _T:
        # Not by cancelling: the driver would then open another connection to a server that may be frozen, to cancel
        # the statement there.
        timer = asyncio.get_running_loop().call_later(self._limit, self.abort)
        try:
            return await request
        except asyncpg.PostgresError as error:
            code = sqlstate(error)
            if code in _TRY_AGAIN:
                raise TryAgain(one_line(error)) from error
            # After FATAL and the like a transaction may have been committed all the same.
            if self.closed or is_fatal(error) or code in _ANOTHER_CONNECTION or code.startswith(("08", "57P")):
                self.abort()
                raise Lost(one_line(error)) from error
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            self.abort()
            raise Lost(one_line(error)) from error
        finally:
            timer.cancel()


def _settings(limit: float) -> dict[str, str]:
    # What the server says itself is certain, so it gives up before this side does.
    milliseconds = str(max(1, int(limit * 800)))
    return {
        "search_path": postgres_schema.SCHEMA,
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,  # of migrations: nothing else spans statements
        "tcp_user_timeout": str(int(limit * 2000)),  # a reply that nobody takes must not keep rows locked
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        # The plan has to be good for any number of actors, not for what the table held when it was made.
        "enable_seqscan": "off",
        "jit": "off",
    }


def _raise_why(error: Exception, place: str, patience: float) -> None:
    """Raise what a failure to connect means, if it needs translation."""
    text = one_line(error)
    if isinstance(error, asyncpg.PostgresError):
        code = sqlstate(error)
        if code.startswith(_PASSING_CLASSES) or code in _ANOTHER_CONNECTION:
            raise Lost(text) from error
        raise UnusableStore(f"{place}: {text}") from error
    if isinstance(error, ssl.SSLError) or "rejected SSL" in text:
        raise UnusableStore(f"{place}: no TLS connection as sslmode asks for: {text}") from error
    if isinstance(error, asyncpg.ClientConfigurationError):
        raise UnusableStore(f"{place}: {text}") from error
    if isinstance(error, TimeoutError):
        raise Lost(f"no connection within {patience:.2g} s") from error
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        raise Lost(text) from error
