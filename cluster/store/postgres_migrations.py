"""The schema's tables and its one function, made by one migration per version.

One group of operations is one call of the function, and so one statement, one transaction and one round trip: a silo
that freezes in the middle holds no locks. READ COMMITTED, where each statement inside sees what was committed when it
began. Its arguments:

addresses   distinct and sorted. All are locked, in that order in every silo, so that no two groups deadlock. Records
            and the rest of an actor are written only under this lock.
epochs      by address: the epoch of whoever opens it or commits to it.
hosts       by address: who opens it; NULL for a commit.
states      by address: the new state; NULL leaves it, or erases it if ``erased``.
wakes       by address: the new wake-up time; NULL leaves it, infinity means never.
erased, asleep      by address: whether the state is erased, and whether there is no host any more; true or NULL.
cut, dropped, put   records, by the place of their address, counted from 1. Cuts come before drops, drops before puts.
atleast     what the era is raised to, or NULL.

Arrays of which all is NULL may be empty instead: ``unnest`` fills them up.

Only commits whose epoch is the stored one have effects. The answer by address: the epoch (-1: never opened; another
complement: that epoch, but of another host) and, if this group opened it, the state and the hot records, in no order.
The epochs are also left in the session's row, for the silo that does not hear the answer. Without that row, nothing
happens.
"""

from typing import Final

REVISION: Final = 2
"""Of the function. Silos of two releases call it at the same time, so it only changes in ways that both understand; the
newest of them replaces it (``APPLY``). It rises with each change, and stands in the function's comment."""

APPLY: Final = r"""
CREATE OR REPLACE FUNCTION agentsilo.apply(
    session uuid, number_now bigint,
    addresses text[], epochs bigint[], hosts text[],
    states bytea[], wakes double precision[], erased boolean[], asleep boolean[],
    cut_of integer[], cut_first bytea[], cut_last bytea[],
    dropped_of integer[], dropped bytea[],
    put_of integer[], put_keys bytea[], put_values bytea[],
    atleast bigint,
    OUT epochs_now bigint[], OUT states_now bytea[],
    OUT hot_of integer[], OUT hot_keys bytea[], OUT hot_values bytea[], OUT era_now bigint
) LANGUAGE plpgsql AS $$
DECLARE
    known bigint[];
BEGIN
    IF cardinality(hosts) = 0 THEN
        SELECT array_agg(locked.place), array_agg(locked.epoch)
        INTO known, epochs_now
        FROM (
            SELECT asked.place, actor.epoch
            FROM unnest(addresses) WITH ORDINALITY AS asked (address, place)
            JOIN agentsilo.actors AS actor ON actor.address = asked.address
            ORDER BY asked.place
            FOR NO KEY UPDATE OF actor
        ) AS locked;

        IF cardinality(known) IS DISTINCT FROM cardinality(addresses) THEN
            epochs_now := ARRAY(
                SELECT coalesce(epochs_now[array_position(known, place)], -1)
                FROM generate_series(1, cardinality(addresses)) AS place
                ORDER BY place
            );
        END IF;
    ELSE
        -- There must be a row to be locked, also for a commit to an address that was never opened.
        INSERT INTO agentsilo.actors AS actor (address, epoch, host)
        SELECT asked.address, CASE WHEN asked.host IS NULL THEN -1 ELSE asked.epoch END, coalesce(asked.host, '')
        FROM unnest(addresses, epochs, hosts) WITH ORDINALITY AS asked (address, epoch, host, place)
        ORDER BY asked.place
        ON CONFLICT (address) DO UPDATE SET epoch = excluded.epoch, host = excluded.host
        WHERE actor.epoch < excluded.epoch OR (actor.epoch = excluded.epoch AND actor.host = '');

        -- An epoch that is another host's is told apart by its complement, and then nothing is found to have it.
        SELECT array_agg(CASE WHEN asked.host <> actor.host AND asked.epoch = actor.epoch THEN ~actor.epoch
                         ELSE actor.epoch END ORDER BY asked.place),
               array_agg(
                   CASE WHEN asked.host = actor.host AND actor.epoch = asked.epoch THEN actor.state END
                   ORDER BY asked.place
               )
        INTO epochs_now, states_now
        FROM unnest(addresses, epochs, hosts) WITH ORDINALITY AS asked (address, epoch, host, place)
        JOIN agentsilo.actors AS actor ON actor.address = asked.address;

        SELECT array_agg(asked.place), array_agg(record.key), array_agg(record.value)
        INTO hot_of, hot_keys, hot_values
        FROM unnest(addresses, hosts) WITH ORDINALITY AS asked (address, host, place)
        JOIN agentsilo.records AS record ON record.address = asked.address AND record.key < '\x80'
        WHERE asked.host IS NOT NULL AND epochs_now[asked.place] = epochs[asked.place];

        DELETE FROM agentsilo.actors AS actor WHERE actor.address = ANY (addresses) AND actor.epoch = -1;
    END IF;

    IF cardinality(states) + cardinality(wakes) + cardinality(erased) + cardinality(asleep) > 0 THEN
        UPDATE agentsilo.actors AS actor
        SET state = CASE WHEN effect.erased OR effect.state IS NOT NULL THEN effect.state ELSE actor.state END,
            wake = CASE WHEN effect.wake IS NULL THEN actor.wake ELSE nullif(effect.wake, 'infinity') END,
            host = CASE WHEN effect.asleep THEN '' ELSE actor.host END
        FROM unnest(states, wakes, erased, asleep) WITH ORDINALITY AS effect (state, wake, erased, asleep, place)
        WHERE (effect.state IS NOT NULL OR effect.wake IS NOT NULL OR effect.erased OR effect.asleep)
        AND epochs_now[effect.place] = epochs[effect.place] AND actor.address = addresses[effect.place];
    END IF;

    IF cardinality(cut_of) > 0 THEN
        DELETE FROM agentsilo.records AS record
        USING unnest(cut_of, cut_first, cut_last) AS cut (place, first_key, last_key)
        WHERE epochs_now[cut.place] = epochs[cut.place] AND record.address = addresses[cut.place]
        AND record.key >= cut.first_key AND record.key < cut.last_key;
    END IF;

    IF cardinality(dropped_of) > 0 THEN
        DELETE FROM agentsilo.records AS record
        USING unnest(dropped_of, dropped) AS gone (place, key)
        WHERE epochs_now[gone.place] = epochs[gone.place]
        AND record.address = addresses[gone.place] AND record.key = gone.key;
    END IF;

    IF cardinality(put_of) > 0 THEN
        INSERT INTO agentsilo.records (address, key, value)
        SELECT addresses[put.place], put.key, put.value
        FROM unnest(put_of, put_keys, put_values) AS put (place, key, value)
        WHERE epochs_now[put.place] = epochs[put.place]
        ON CONFLICT (address, key) DO UPDATE SET value = excluded.value;
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

_FORMAT_1_APPLY: Final = """
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

# Released migrations are never edited: a change of the tables is a new entry at the end.
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
        _FORMAT_1_APPLY,
    ),
    (
        # The wake-up time and the host hang on the epoch, so they are in its row. While only a state is written, the
        # row is updated in place.
        "ALTER TABLE agentsilo.actors ADD COLUMN wake double precision",
        """ALTER TABLE agentsilo.actors ADD COLUMN host text COLLATE "C" NOT NULL DEFAULT ''""",
        "CREATE INDEX actors_due ON agentsilo.actors (host, wake, address) WHERE wake IS NOT NULL",
        """
        CREATE TABLE agentsilo.records (
            address text COLLATE "C", key bytea, value bytea NOT NULL, PRIMARY KEY (address, key)
        )
        """,
        "ALTER TABLE agentsilo.records ALTER COLUMN value SET STORAGE EXTERNAL",
        r"CREATE INDEX records_flagged ON agentsilo.records (address, key) WHERE key >= '\x05' AND key < '\x06'",
        "DROP FUNCTION agentsilo.apply",
        APPLY,
    ),
)
