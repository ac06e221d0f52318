"""The schema ``agentsilo``: whether it is a store of this release, how it becomes one, and who may use it.

Everything of ours is in a schema of our own, so that a store can live in a database that holds other things; a store
is a database, not a server. Advisory locks, which are per database and end with their connection, say who uses it.
"""

import asyncio
import secrets
from math import inf
from typing import Final

import asyncpg

from cluster.store.errors import StoreInUse, UnusableStore
from cluster.store.postgres_connection import SCHEMA
from cluster.store.postgres_driver import Connection
from cluster.store.postgres_migrations import APPLY, MIGRATIONS, REVISION

OLDEST_SERVER: Final = 14  # pg_terminate_backend that waits; 13 has had no security fixes since November 2025

_KEY: Final = 0x5349_4C4F << 8  # "SILO"
_USE_LOCK: Final = _KEY + 1
_MIGRATION_LOCK: Final = _KEY + 2
# The server takes a moment to notice the death of the process that held a lock.
_LOCK_ATTEMPTS: Final = 10
_LOCK_PAUSE_SECONDS: Final = 0.05
_LONGEST_UPGRADE_SECONDS: Final = 3600


async def prepare(
    connection: Connection, place: str, *, exclusively: bool, may_migrate: bool, patience: asyncio.Timeout
) -> str:
    """Take the lock of those who use the store, bring the schema up to date, and return the store's id.

    An upgrade may take longer than ``patience``, which then goes on where it was.

    Raises ``UnusableStore``, with nothing changed, for a server or schema that this release cannot use;
    ``StoreInUse``; or the driver's own errors.
    """
    version = connection.get_server_version().major
    if version < OLDEST_SERVER:
        raise UnusableStore(f"{place}: is PostgreSQL {version}; the store needs {OLDEST_SERVER} or newer")
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise UnusableStore(f"{place}: the database's encoding is {encoding}; create one with ENCODING 'UTF8'")
    if may_migrate:
        found = await _format(connection, place)
        if found == 0:
            await _migrate(connection, place)
        elif found < len(MIGRATIONS):
            await _upgrade(connection, place, patience)
        if await _revision(connection) < REVISION:
            await _replace_function(connection)
    await lock(connection, place, exclusively=exclusively)
    # From here on nobody can migrate.
    found = await _format(connection, place)
    if found != len(MIGRATIONS):
        raise UnusableStore(f"{place}: the schema {SCHEMA} was removed or changed while it was in use; restart")
    store_id = await connection.fetchval("SELECT id FROM agentsilo.store")
    assert isinstance(store_id, str)
    return store_id


async def lock(connection: Connection, place: str, *, exclusively: bool) -> None:
    """Hold the store together with other silos, or alone; both end with the connection. Raises ``StoreInUse``."""
    function = "pg_try_advisory_lock" if exclusively else "pg_try_advisory_lock_shared"
    for attempt in range(_LOCK_ATTEMPTS):
        if attempt:
            await asyncio.sleep(_LOCK_PAUSE_SECONDS)
        if await connection.fetchval(f"SELECT {function}($1)", _USE_LOCK):
            return
    if exclusively:
        raise StoreInUse(
            f"{place}: another silo uses this store. An embedded silo must be alone on its store: stop the other, or "
            "join the silos to one cluster with --etcd"
        )
    raise StoreInUse(
        f"{place}: an embedded silo has this store for itself. Stop it, give this silo a database of its own, or join "
        "the silos to one cluster with --etcd"
    )


async def _format(connection: Connection, place: str) -> int:
    """The number of migrations that were applied; 0 where there is nothing of ours, nor of anybody else's."""
    tables = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace($1)", SCHEMA)
    if tables == 0:
        return 0
    try:
        formats = await connection.fetch("SELECT format FROM agentsilo.store WHERE id IS NOT NULL AND era >= 0")
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError):
        formats = []
    if len(formats) != 1 or not isinstance(formats[0][0], int):
        raise UnusableStore(
            f"{place}: its schema {SCHEMA} belongs to another application; it was not touched. Choose another database"
        )
    found: int = formats[0][0]
    if found > len(MIGRATIONS):
        raise UnusableStore(
            f"{place}: was written by a newer release (format {found}, this release knows {len(MIGRATIONS)}); it was "
            "not touched. Upgrade this silo, or choose another database"
        )
    return found


async def _revision(connection: Connection) -> int:
    """Of the function that is there; the first one has no comment."""
    comment = await connection.fetchval("SELECT obj_description(to_regproc('agentsilo.apply'), 'pg_proc')")
    word, _, number = str(comment or "").partition(" ")
    return int(number) if word == "revision" and number.isdigit() else 1


async def _replace_function(connection: Connection) -> None:
    """Calls that are under way end with the function with which they began."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
        if await _revision(connection) < REVISION:  # again: another silo may have done it in the meantime
            await connection.execute(APPLY)
            await connection.execute(f"COMMENT ON FUNCTION agentsilo.apply IS 'revision {REVISION}'")


async def _upgrade(connection: Connection, place: str, patience: asyncio.Timeout) -> None:
    """Migrate, or wait until another silo has, though it may have to go through all rows."""
    now = asyncio.get_running_loop().time
    remaining = (patience.when() or inf) - now()
    patience.reschedule(now() + _LONGEST_UPGRADE_SECONDS)
    limits = [(name, await connection.fetchval(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout")]
    for name, _ in limits:
        await connection.execute(f"SET {name} = '{_LONGEST_UPGRADE_SECONDS}s'")
    await _migrate(connection, place)
    for name, limit in limits:
        await connection.execute(f"SET {name} = '{limit}'")
    patience.reschedule(now() + remaining)


async def _migrate(connection: Connection, place: str) -> None:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
        found = await _format(connection, place)  # again: another silo may have done it in the meantime
        if 0 < found < len(MIGRATIONS) and not await connection.fetchval(
            "SELECT pg_try_advisory_xact_lock($1)", _USE_LOCK
        ):
            raise StoreInUse(
                f"{place}: silos of an older release use this store (format {found}); stop them before this release "
                f"upgrades it to format {len(MIGRATIONS)}"
            )
        if found == 0 and not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", SCHEMA):
            await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for migration in MIGRATIONS[found:]:
            for statement in migration:
                await connection.execute(statement)
        if found == 0:
            await connection.execute("INSERT INTO agentsilo.store VALUES ($1, 0, 0)", secrets.token_hex(16))
        await connection.execute("UPDATE agentsilo.store SET format = $1", len(MIGRATIONS))
