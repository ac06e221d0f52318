"""What reading operations ask of the SQLite file. Several of one kind that wait together are one statement.

Records come as a text with commas between them. A record is its key in hexadecimal, a space, and its value in
hexadecimal. A large value is left out, together with the space, and has to be fetched.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Final, TypeAlias

import msgspec

from actors.ports import Due
from cluster.store.sqlite_rows import select_wide

Records: TypeAlias = list[tuple[bytes, bytes]]
Flagged: TypeAlias = list[tuple[str, bytes, bytes]]

_LARGE: Final = 16 * 1024
_PAGE: Final = 128  # records; of a large value each, with their hexadecimal form, that is 6 MiB
_PACKED: Final = f"hex(key) || iif(length(value) <= {_LARGE}, ' ' || hex(value), '')"


class Range(msgspec.Struct, frozen=True):
    """Which records to read, as in ``Store.read``."""

    address: str
    first: bytes
    last: bytes
    limit: int
    newest: bool = False


class DueQuery(msgspec.Struct, frozen=True):
    """Which addresses to look for, as in ``Store.due``."""

    before: float
    hosts: Collection[str]
    after: Due | None
    limit: int


class FlagQuery(msgspec.Struct, frozen=True):
    """Which flagged records to look for, as in ``Store.flagged``."""

    after: tuple[str, bytes]
    limit: int


_STATE: Final = "(SELECT state FROM states WHERE actor = (SELECT id FROM actors WHERE address = {0}))"


def read_states(connection: sqlite3.Connection, addresses: Sequence[str]) -> list[bytes | None]:
    """The state of each address."""
    return [state for (state,) in select_wide(connection, _STATE, [(address,) for address in addresses])]


def read_ranges(connection: sqlite3.Connection, ranges: Sequence[Range]) -> list[Records]:
    """The records of each range. Short ranges of small records, which most are, take one statement together."""
    found: list[Records | None] = [None] * len(ranges)
    for newest in (False, True):
        places = [place for place, range_ in enumerate(ranges) if range_.newest is newest]
        pages = _pages(connection, [ranges[place] for place in places])
        for place, page in zip(places, pages, strict=True):
            if len(page) < _PAGE or ranges[place].limit <= _PAGE:
                found[place] = _whole(page)
    return [_long(connection, it) if records is None else records for it, records in zip(ranges, found, strict=True)]


def _long(connection: sqlite3.Connection, wanted: Range) -> Records:
    with _snapshot(connection):
        return read_pages(connection, wanted)


def read_pages(connection: sqlite3.Connection, wanted: Range) -> Records:
    """The records of a range of any length, inside the transaction that the caller has begun."""
    found: Records = []
    while wanted.limit > 0:
        (page,) = _pages(connection, [wanted])
        found += ((key, _fetch(connection, wanted.address, key) if value is None else value) for key, value in page)
        if len(page) < _PAGE:
            break
        if wanted.newest:
            last, first = page[0][0], wanted.first
        else:
            last, first = wanted.last, page[-1][0] + b"\0"
        wanted = Range(wanted.address, first, last, wanted.limit - len(page), wanted.newest)
    found.sort()
    return found


_FIRST: Final = """(SELECT group_concat(record) FROM (
    SELECT PACKED AS record FROM records
    WHERE actor = (SELECT id FROM actors WHERE address = {0}) AND key >= {1} AND key < {2}
    ORDER BY key LIMIT coalesce({3}, 0)
))""".replace("PACKED", _PACKED)
_NEWEST: Final = _FIRST.replace("ORDER BY key", "ORDER BY key DESC")


def _pages(connection: sqlite3.Connection, ranges: Sequence[Range]) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """The first page of each range, all of which begin at the same end; in ascending order, large values as None."""
    rows = [(it.address, it.first, it.last, max(min(it.limit, _PAGE), 0)) for it in ranges]
    column = _NEWEST if ranges and ranges[0].newest else _FIRST
    for (text,) in select_wide(connection, column, rows, width=32):
        yield unpacked(text)


def unpacked(text: str | None) -> list[tuple[bytes, bytes | None]]:
    """The records of a packed text, in ascending order."""
    if text is None:
        return []
    unhex = bytes.fromhex
    parts = (record.partition(" ") for record in text.split(","))
    return sorted((unhex(key), unhex(value) if space else None) for key, space, value in parts)


def _whole(page: list[tuple[bytes, bytes | None]]) -> Records | None:
    """The page, unless a value is missing."""
    records = [(key, value) for key, value in page if value is not None]
    return records if len(records) == len(page) else None


def _fetch(connection: sqlite3.Connection, address: str, key: bytes) -> bytes:
    sql = "SELECT value FROM records WHERE actor = (SELECT id FROM actors WHERE address = ?) AND key = ?"
    value: bytes = connection.execute(sql, (address, key)).fetchone()[0]
    return value


# The values are looked up only after the sorting.
_FLAGGED: Final = """
SELECT group_concat(hex(CAST(address AS BLOB)) || ':' || PACKED) FROM (
    SELECT address, actor, key FROM records INDEXED BY flagged CROSS JOIN actors ON actors.id = records.actor
    WHERE key >= x'05' AND key < x'06' AND (address, key) > (?, ?) ORDER BY address, key LIMIT ?
) JOIN records USING (actor, key)
""".replace("PACKED", _PACKED)


def read_flagged(connection: sqlite3.Connection, queries: Sequence[FlagQuery]) -> list[Flagged]:
    """Flagged records of all addresses from behind ``after``, by address and key, for each query."""
    return [_flagged(connection, query.after, query.limit) for query in queries]


def _flagged(connection: sqlite3.Connection, after: tuple[str, bytes], limit: int) -> Flagged:
    found: Flagged = []
    with _snapshot(connection):
        while limit > 0:
            (text,) = connection.execute(_FLAGGED, (*after, min(limit, _PAGE))).fetchone()
            page = [record.partition(":") for record in text.split(",")] if text is not None else []
            found += sorted(_flag(connection, bytes.fromhex(address).decode(), packed) for address, _, packed in page)
            if len(page) < _PAGE:
                break
            after = found[-1][:2]
            limit -= len(page)
    return found


def _flag(connection: sqlite3.Connection, address: str, packed: str) -> tuple[str, bytes, bytes]:
    ((key, value),) = unpacked(packed)
    return address, key, _fetch(connection, address, key) if value is None else value


# Steps from each host to the next one in the index: what it costs depends on the number of hosts alone.
_HOSTS: Final = """
WITH RECURSIVE host (name) AS (
    SELECT (SELECT host FROM actors INDEXED BY due WHERE wake IS NOT NULL ORDER BY host LIMIT 1)
    UNION ALL
    SELECT (SELECT host FROM actors INDEXED BY due WHERE wake IS NOT NULL AND host > name ORDER BY host LIMIT 1)
    FROM host WHERE name IS NOT NULL
)
SELECT group_concat(hex(CAST(name AS BLOB))) FROM host WHERE name IS NOT NULL
"""

_DUE: Final = """(SELECT group_concat(id || ' ' || hex(CAST(address AS BLOB))) FROM (
    SELECT id, address FROM actors INDEXED BY due
    WHERE host = {0} AND wake IS NOT NULL AND wake <= {1} AND (wake, address) > ({2}, {3})
    ORDER BY wake, address LIMIT coalesce({4}, 0)
))"""


def read_due(connection: sqlite3.Connection, queries: Sequence[DueQuery]) -> list[list[Due]]:
    """Addresses that somebody must see to, soonest first, for each query."""
    return [_due(connection, query) for query in queries]


def _due(connection: sqlite3.Connection, query: DueQuery) -> list[Due]:
    with _snapshot(connection):
        (text,) = connection.execute(_HOSTS).fetchone()
        hosts = [bytes.fromhex(name).decode() for name in text.split(",")] if text is not None else []
        after = (query.after.wake, query.after.address) if query.after is not None else (-inf, "")
        limit = max(min(query.limit, 2**31), 0)
        rows = [(host, query.before, *after, limit) for host in hosts if host == "" or host not in query.hosts]
        texts = [text for (text,) in select_wide(connection, _DUE, rows, width=8) if text is not None]
        found = [entry.partition(" ") for text in texts for entry in text.split(",")]
        # No text of SQLite's own making is exactly the number.
        wakes = select_wide(
            connection, "(SELECT wake FROM actors WHERE id = {0})", [(int(id_),) for id_, _, _ in found], width=512
        )
        addresses = (bytes.fromhex(address).decode() for _, _, address in found)
        return sorted(Due(wake, address) for (wake,), address in zip(wakes, addresses, strict=True))[:limit]


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All statements inside see the same moment."""
    connection.execute("BEGIN")
    yield
    connection.execute("COMMIT")  # after an error the connection is closed
