"""Connections that are set up as the store needs them, and requests that end in time: answered, refused or lost."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from random import random
from typing import Final, TypeVar

import asyncpg

from cluster.store.errors import UnusableStore
from cluster.store.postgres_driver import Connection, connect, is_fatal, one_line, sqlstate
from cluster.store.postgres_url import PostgresUrl

_T = TypeVar("_T")

SCHEMA: Final = "agentsilo"

_TRY_AGAIN: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# The connection is of no use any more: the session was ended, or the server is a standby by now.
_ANOTHER_CONNECTION: Final = frozenset({"AS001", "25006"})
# Refusals to connect that pass: the connection broke, too many of them, starting up or shutting down, locks, I/O.
_PASSING_CLASSES: Final = ("08", "40", "53", "55", "57", "58")
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.5


class Lost(Exception):
    """The connection is gone or could not be made, for a reason that may pass. Says nothing of what was sent."""


class TryAgain(Exception):
    """The database refused the request, which had no effect, for a reason that has passed already."""


async def connect_within(
    patience: float,
    url: PostgresUrl,
    *,
    limit: float,
    set_up: Callable[[Connection, asyncio.Timeout], Awaitable[_T]],
) -> _T:
    """What ``set_up`` makes of a new connection, all within ``patience`` seconds unless it moves the timeout.

    No later statement takes the server more than ``limit`` seconds. Raises ``UnusableStore``, ``Lost`` or
    ``ValueError``; the connection is dropped then.
    """
    connection: Connection | None = None
    try:
        async with asyncio.timeout(patience) as timeout:
            connection = await connect(url.dsn, timeout=patience + 1, settings=_settings(limit))
            return await set_up(connection, timeout)
    except BaseException as error:
        if connection is not None:
            connection.terminate()
        if isinstance(error, Exception):
            _raise_why(error, url.place, patience)
        raise


async def answer_within(limit: float, connection: Connection, request: Awaitable[_T]) -> _T:
    """What the server answers to a request on the connection, which is dropped after ``limit`` seconds without.

    Raises ``Lost``: it may have had its effect; ``TryAgain`` or ``asyncpg.PostgresError``: it had none.
    """
    # Not by cancelling: the driver would then open another connection to a server that may be frozen, to cancel
    # the statement there.
    timer = asyncio.get_running_loop().call_later(limit, connection.terminate)
    try:
        return await request
    except asyncpg.PostgresError as error:
        code = sqlstate(error)
        if code in _TRY_AGAIN:
            raise TryAgain(one_line(error)) from error
        # After FATAL and the like a transaction may have been committed all the same.
        if connection.is_closed() or is_fatal(error) or code in _ANOTHER_CONNECTION or code.startswith(("08", "57P")):
            connection.terminate()
            raise Lost(one_line(error)) from error
        raise
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        connection.terminate()
        raise Lost(one_line(error)) from error
    finally:
        timer.cancel()


def server_limit(limit: float) -> str:
    """The server's limit in milliseconds. What it says itself is certain, so it gives up before this side does."""
    return str(max(1, int(limit * 800)))


def pauses() -> Iterator[float]:
    """Seconds to wait between attempts: growing, bounded, and not those of other silos."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause * (0.5 + random())
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _settings(limit: float) -> dict[str, str]:
    milliseconds = server_limit(limit)
    return {
        "search_path": SCHEMA,
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "standard_conforming_strings": "on",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,  # of migrations: nothing else spans statements
        "tcp_user_timeout": str(int(limit * 2000)),  # a reply that nobody takes must not keep rows locked
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        # A plan has to be good for any number of rows, not for what a table held when it was made. Of everything that
        # is looked for there is an index in the order that is asked for.
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "jit": "off",
        "work_mem": "256MB",  # a group with large values is unpacked in memory, instead of through a file
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
