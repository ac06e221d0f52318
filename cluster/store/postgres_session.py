"""One connection to the database, and what is certain about a group that it was sent.

PostgreSQL says "committed" only after the log is on disk (``synchronous_commit``), but that word can get lost. So each
connection has a row of its own in ``sessions``, in which every group leaves its number and its answer, in the same
transaction as its effects. Whoever lost a connection *ends* its row from another one: that waits for a transaction
that is under way, tells whether the group was applied and with what answer, and makes sure that a group which is
still in some network buffer never will be.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, Self, TypeAlias, TypeVar
from uuid import UUID, uuid4

import asyncpg

from cluster.store import postgres_schema
from cluster.store.postgres_connection import Lost, TryAgain, answer_within, connect_within, server_limit
from cluster.store.postgres_driver import Connection
from cluster.store.postgres_group import Reply, Request, Stored
from cluster.store.postgres_url import PostgresUrl

Backend: TypeAlias = tuple[int, datetime]  # its process id and when it was started: ids are used again
_T = TypeVar("_T")

_SLOWEST_BYTES_PER_SECOND: Final = 16 * 1024 * 1024
# Rows of silos that died go after a week. A live one that wrote nothing for so long makes itself another.
_FORGET_THE_DEAD: Final = """
DELETE FROM agentsilo.sessions WHERE id IN (
    SELECT id FROM agentsilo.sessions WHERE touched < now() - interval '7 days' FOR UPDATE SKIP LOCKED
)
"""
_APPLY: Final = """
SELECT epochs_now, states_now, hot_of, hot_keys, hot_values, era_now
FROM agentsilo.apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
"""


class PostgresSession:
    """A connection that is set up and holds the store's lock. Made by ``connect``; for one task at a time."""

    def __init__(self, connection: Connection, *, place: str, limit: float) -> None:
        self._connection = connection
        self._place = place
        self._limit = self._statement_limit = limit
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
        """Connect within ``patience`` seconds, upgrades aside. No later request takes more than ``limit`` seconds.

        ``ghosts`` are backends of connections that this handle lost: they are terminated first, as they may still
        hold locks, and taken off the list. Raises ``UnusableStore``, ``Lost`` or ``ValueError``.
        """

        async def set_up(connection: Connection, patience: asyncio.Timeout) -> Self:
            session = cls(connection, place=url.place, limit=limit)
            await session._end_ghosts(ghosts)
            session.store_id = await postgres_schema.prepare(
                connection,
                url.place,
                exclusively=exclusively,
                may_migrate=may_migrate,
                patience=patience,
            )
            await session._register()
            return session

        return await connect_within(patience, url, limit=limit, set_up=set_up)

    async def _end_ghosts(self, ghosts: list[Backend]) -> None:
        for ghost in list(ghosts):
            await self._connection.execute(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
                *ghost,
            )
            ghosts.remove(ghost)

    async def _register(self) -> None:
        connection = self._connection
        # "off", "local" and "remote_write" acknowledge what a crash can take back.
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
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
        """Return if the server answers. Raises ``Lost``."""
        await self._within_limit(self._connection.execute("SELECT"))

    async def apply(self, request: Request) -> Reply:
        """Run the group as one transaction. When this returns, it is durable.

        Raises ``Lost``: it may have been applied, which ``end`` tells; ``TryAgain`` or ``asyncpg.PostgresError``: it
        was not applied.
        """
        self._number += 1
        limit = self._limit + request.size() // _SLOWEST_BYTES_PER_SECOND
        if limit != self._statement_limit:  # for what is large, and so alone in its group
            await self._within_limit(self._connection.execute(f"SET statement_timeout = {server_limit(limit)}"))
            self._statement_limit = limit
        # Not `fetchrow`, which stops before the statement's end.
        ((epochs, states, hot_of, hot_keys, hot_values, era),) = await self._within_limit(
            self._connection.fetch(_APPLY, self.id, self._number, *request.arguments()), limit=limit
        )
        hot = zip(hot_of or (), hot_keys or (), hot_values or (), strict=True)
        return Reply(epochs or (), era, Stored(states or (), list(hot)))

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

    async def _within_limit(self, request: Awaitable[_T], *, limit: float | None = None) -> _T:
        return await answer_within(self._limit if limit is None else limit, self._connection, request)
