"""The database: the schema ``agentsilo`` with its tables and its one function, made by one migration per version.

Everything of ours is in a schema of our own, so that a store can live in a database that holds other things; a store
is a database, not a server. Advisory locks, which are per database and end with their connection, say who uses it.
"""

import asyncio
import secrets
from typing import Final

import asyncpg

from cluster.store.errors import StoreInUse, UnusableStore
from cluster.store.postgres_driver import Connection

SCHEMA: Final = "agentsilo"
OLDEST_SERVER: Final = 14  # pg_terminate_backend that waits; 13 has had no security fixes since November 2025

# One group of operations, as one statement and so one transaction and one round trip: a silo that freezes in the
# middle holds no locks. READ COMMITTED, where each statement inside sees what was committed when it began.
#   addresses  distinct and sorted. All are locked, in that order in every silo, so that no two groups deadlock.
#   opened     by address: the epoch that opens it, or NULL.
#   written    addresses whose state changes if its epoch is the one in `owners`; a NULL in `states` erases.
#   atleast    what the era is raised to, or NULL.
# The answer by address: the epoch (-1: never opened) and, if this group opened it, the state.
# The answer is also left in the session's row, for the silo that does not hear it. Without that row, nothing happens.
_APPLY: Final = """
CREATE FUNCTION agentsilo.apply(
    session uuid, number_now bigint, addresses text[], opened bigint[],
    written text[], owners bigint[], states bytea[], atleast bigint,
    OUT epochs_now bigint[], OUT states_now bytea[], OUT era_now bigint
) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO agentsilo.actors AS actor (address, epoch)
    SELECT asked.address, coalesce(asked.epoch, -1)
    FROM unnest(addresses, opened) WITH ORDINALITY AS asked (address, epoch, place)
    ORDER BY asked.place
    ON CONFLICT (address) DO UPDATE SET epoch = excluded.epoch WHERE actor.epoch < excluded.epoch;

    IF cardinality(written) > 0 THEN
        UPDATE agentsilo.actors AS actor SET state = effect.state
        FROM unnest(written, owners, states) AS effect (address, owner, state)
        WHERE actor.address = effect.address AND actor.epoch = effect.owner;
    END IF;

    SELECT array_agg(actor.epoch ORDER BY asked.place),
           array_agg(CASE WHEN actor.epoch = asked.epoch THEN actor.state END ORDER BY asked.place)
    INTO epochs_now, states_now
    FROM unnest(addresses, opened) WITH ORDINALITY AS asked (address, epoch, place)
    JOIN agentsilo.actors AS actor ON actor.address = asked.address;

    IF -1 = ANY (epochs_now) THEN
        DELETE FROM agentsilo.actors AS actor WHERE actor.address = ANY (addresses) AND actor.epoch = -1;
    END IF;

    IF atleast IS NOT NULL THEN
        UPDATE agentsilo.store SET era = atleast WHERE era < atleast;
        SELECT era INTO era_now FROM agentsilo.store;
    END IF;

    UPDATE agentsilo.sessions SET number = number_now, epochs = epochs_now, touched = now()
    WHERE id = session AND NOT ended;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this session was ended' USING ERRCODE = 'AS001';
    END IF;
END
$$
"""

# Released migrations are never edited: a change of the schema is a new entry at the end.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE agentsilo.store (id text NOT NULL, format integer NOT NULL, era bigint NOT NULL)",
        # The epoch stays when the rest of an actor is deleted. Raising it does not copy the state: a row refers to a
        # value of more than 2 kB. "C" is the order in which Python sorts text. Space in the pages lets the server
        # update a row in place.
        """
        CREATE TABLE agentsilo.actors (address text COLLATE "C" PRIMARY KEY, epoch bigint NOT NULL, state bytea)
        WITH (fillfactor = 80)
        """,
        # Uncompressed, as the compression of every write would cost more time than it saves.
        "ALTER TABLE agentsilo.actors ALTER COLUMN state SET STORAGE EXTERNAL",
        # The last group of each connection that writes; see postgres_session.
        """
        CREATE TABLE agentsilo.sessions (
            id uuid PRIMARY KEY, number bigint NOT NULL DEFAULT 0, epochs bigint[],
            ended boolean NOT NULL DEFAULT false, touched timestamptz NOT NULL DEFAULT now()
        ) WITH (fillfactor = 20)
        """,
        _APPLY,
    ),
)

_KEY: Final = 0x5349_4C4F << 8  # "SILO"
_USE_LOCK: Final = _KEY + 1
_MIGRATION_LOCK: Final = _KEY + 2
# The server takes a moment to notice the death of the process that held a lock.
_LOCK_ATTEMPTS: Final = 10
_LOCK_PAUSE_SECONDS: Final = 0.05


async def prepare(connection: Connection, place: str, *, exclusively: bool, may_migrate: bool) -> str:
    """Take the lock of those who use the store, bring the schema up to date, and return the store's id.

    Raises ``UnusableStore``, with nothing changed, for a server or schema that this release cannot use;
    ``StoreInUse``; or the driver's own errors.
    """
    version = connection.get_server_version().major
    if version < OLDEST_SERVER:
        raise UnusableStore(f"{place}: is PostgreSQL {version}; the store needs {OLDEST_SERVER} or newer")
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise UnusableStore(f"{place}: the database's encoding is {encoding}; create one with ENCODING 'UTF8'")
    if may_migrate and await _format(connection, place) < len(MIGRATIONS):
        await _migrate(connection, place)
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
