"""Queries beside the writer, so that they do not wait behind groups.

They must see what the writer's server has acknowledged. So a connection for reading belongs to a session of the writer:
it is made only to the server process group in which that session lives (not to a standby, nor to a primary that was
replaced), and not used when the writer has got another session.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import asyncpg

from actors.ports import StoreUnavailable
from cluster.store.errors import UnusableStore
from cluster.store.postgres_connection import Lost, TryAgain, answer_within, connect_within, pauses
from cluster.store.postgres_driver import Connection, one_line
from cluster.store.postgres_session import PostgresSession
from cluster.store.postgres_url import PostgresUrl

_MOST_CONNECTIONS: Final = 2


class _Reading(NamedTuple):
    connection: Connection
    session: PostgresSession


class PostgresReader:
    """Runs queries in connections of its own, which it makes when it needs them.

    ``session`` gives the writer's session, or None while there is none. Every query is answered or refused within
    ``timeout`` seconds.
    """

    def __init__(self, url: PostgresUrl, *, timeout: float, session: Callable[[], PostgresSession | None]) -> None:
        self._url = url
        self._timeout = timeout
        self._session = session
        self._idle: list[_Reading] = []
        self._free = asyncio.Semaphore(_MOST_CONNECTIONS)
        self._queries: set[asyncio.Task[list[Any]]] = set()

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """The rows. Raises ``StoreUnavailable``.

        A query whose caller is cancelled goes on to its end: a connection in the middle of one is of no use.
        """
        task = asyncio.create_task(self._fetch(query, arguments), name=f"query {self._url.place}")
        self._queries.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, query: "asyncio.Task[list[Any]]") -> None:
        self._queries.discard(query)
        if not query.cancelled():
            query.exception()  # if its caller was cancelled nobody else asks for it, and asyncio would report that

    async def close(self) -> None:
        """Answer what was asked, and close the connections."""
        while self._queries:
            await asyncio.wait(self._queries)
        for reading in self._idle:
            with suppress(Lost, TryAgain, asyncpg.PostgresError):
                await answer_within(self._timeout, reading.connection, reading.connection.close())
        self.abort()

    def abort(self) -> None:
        """Drop the connections that are not in use at once."""
        while self._idle:
            self._idle.pop().connection.terminate()

    async def _fetch(self, query: str, arguments: tuple[object, ...]) -> list[Any]:
        now = asyncio.get_running_loop().time
        deadline = now() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable(f"{self._url.place}: too many queries wait; nothing was read") from None
        trouble: Exception | None = None
        try:
            for pause in pauses():
                try:
                    return await self._attempt(query, arguments, deadline)
                except (Lost, TryAgain) as error:
                    trouble = trouble or error  # the later ones had less time
                    if now() + pause >= deadline:
                        raise StoreUnavailable(f"{self._url.place}: {one_line(trouble)}; nothing was read") from error
                except (UnusableStore, asyncpg.PostgresError) as error:
                    raise StoreUnavailable(f"{self._url.place}: {one_line(error)}; nothing was read") from error
                await asyncio.sleep(pause)
            raise AssertionError  # pauses never end
        finally:
            self._free.release()

    async def _attempt(self, query: str, arguments: tuple[object, ...], deadline: float) -> list[Any]:
        reading = await self._connected(deadline)
        try:
            remaining = deadline - asyncio.get_running_loop().time()
            rows = await answer_within(remaining, reading.connection, reading.connection.fetch(query, *arguments))
        except (Lost, TryAgain, asyncpg.PostgresError):
            if not reading.connection.is_closed():
                self._idle.append(reading)
            raise
        except BaseException:
            reading.connection.terminate()
            raise
        self._idle.append(reading)
        return rows

    async def _connected(self, deadline: float) -> _Reading:
        session = self._session()
        if session is None or session.closed:
            raise Lost("is not connected")
        while self._idle:
            reading = self._idle.pop()
            if reading.session is session and not reading.connection.is_closed():
                return reading
            reading.connection.terminate()
        patience = max(0.0, deadline - asyncio.get_running_loop().time())
        set_up = partial(_belong_to, session)
        return await connect_within(patience, self._url, limit=self._timeout, set_up=set_up)


async def _belong_to(session: PostgresSession, connection: Connection, _patience: asyncio.Timeout) -> _Reading:
    pid, started = session.backend
    found = await connection.fetch("SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2", pid, started)
    if not found:
        raise Lost("this is not the server that the store writes to")
    return _Reading(connection, session)
