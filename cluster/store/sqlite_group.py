"""A group of operations as one SQLite transaction, in a number of SQL statements that does not grow with the group.

Python's sqlite3 gives up the interpreter lock for every row that it writes or reads, and gets it back from a busy
event loop only after some milliseconds. A statement per operation would make a busy silo hundreds of times slower, so
the rows of a group travel as the VALUES of one statement, and what is read comes back as one wide row. Statements are
made for groups of 1, 2, 4, ... and filled up with NULLs, so that each size is compiled once.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from actors.ports import Commit, Fenced

_Value: TypeAlias = str | int | bytes
_Claim: TypeAlias = tuple[str, int]  # an address and an epoch that has to own it

# A wide row of this many states: SQLite's limit is 2,000 columns.
_STATES_AT_ONCE: Final = 64


class Open(msgspec.Struct, frozen=True):
    """Raise the epoch; the outcome is the state."""

    address: str
    epoch: int


class Delete(msgspec.Struct, frozen=True):
    """Erase all but the epoch."""

    address: str
    epoch: int


class RaiseEra(msgspec.Struct, frozen=True):
    """Raise the store's era; the outcome is the era."""

    atleast: int


Operation: TypeAlias = Open | Commit | Delete | RaiseEra
Answer: TypeAlias = bytes | int | None
Outcome: TypeAlias = Answer | Fenced


def apply(connection: sqlite3.Connection, operations: Sequence[Operation]) -> list[Outcome]:
    """Apply the operations, in order for each address, inside the transaction that the caller has begun.

    Returns the outcome of each. A fenced one changes nothing, whatever the others do.
    """
    outcomes: list[Outcome] = [None] * len(operations)
    for wave in _waves(operations):
        if wave.eras:
            _raise_era(connection, wave.eras, outcomes)
        if wave.opens:
            _open(connection, wave.opens, outcomes)
        if wave.commits:
            _commit(connection, wave.commits, outcomes)
        if wave.deletes:
            _delete(connection, wave.deletes, outcomes)
    return outcomes


@dataclass(slots=True)
class _Wave:
    """Operations, by their place in the group, that may run as: all opens, then all commits, then all deletes."""

    eras: dict[int, RaiseEra] = field(default_factory=dict)
    opens: dict[int, Open] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    deletes: dict[int, Delete] = field(default_factory=dict)


def _waves(operations: Sequence[Operation]) -> Iterator[_Wave]:
    wave = _Wave()
    stages: dict[str, int] = {}  # how far each address has come in this wave
    for index, operation in enumerate(operations):
        if isinstance(operation, RaiseEra):
            wave.eras[index] = operation
            continue
        stage = 1 if isinstance(operation, Commit) else 0 if isinstance(operation, Open) else 2
        reached = stages.get(operation.address, -1)
        # Going back needs a new wave. So does a second open: one statement cannot fence two opens by one another.
        if stage < reached or stage == reached == 0:
            yield wave
            wave = _Wave()
            stages.clear()
        stages[operation.address] = stage
        if isinstance(operation, Commit):
            wave.commits[index] = operation
        elif isinstance(operation, Open):
            wave.opens[index] = operation
        else:
            wave.deletes[index] = operation
    yield wave


def _raise_era(connection: sqlite3.Connection, eras: dict[int, RaiseEra], outcomes: list[Outcome]) -> None:
    for index, operation in eras.items():
        connection.execute("UPDATE store SET era = ?1 WHERE era < ?1", (operation.atleast,))
        outcomes[index] = connection.execute("SELECT era FROM store").fetchone()[0]


_RAISE_EPOCHS: Final = """
INSERT INTO actors (address, epoch)
WITH operation (address, epoch) AS (VALUES {rows})
SELECT address, epoch FROM operation WHERE address IS NOT NULL
ON CONFLICT (address) DO UPDATE SET epoch = excluded.epoch WHERE epoch < excluded.epoch
"""


def _open(connection: sqlite3.Connection, opens: dict[int, Open], outcomes: list[Outcome]) -> None:
    claims = [(operation.address, operation.epoch) for operation in opens.values()]
    _execute(connection, _RAISE_EPOCHS, claims, columns=2)
    fences = _fences(connection, claims)
    states = iter(_states(connection, [address for address, _ in claims]))
    for index, operation in opens.items():
        state = next(states)
        stored = fences.get((operation.address, operation.epoch))
        outcomes[index] = state if stored is None else _fenced(operation, stored)


_STATE: Final = "(SELECT state FROM states WHERE actor = (SELECT id FROM actors WHERE address = ?))"


def _states(connection: sqlite3.Connection, addresses: Sequence[str]) -> Iterator[bytes | None]:
    for start in range(0, len(addresses), _STATES_AT_ONCE):
        part: list[str | None] = list(addresses[start : start + _STATES_AT_ONCE])
        size = len(part)
        width = _padded(size)
        part.extend([None] * (width - size))
        row: tuple[bytes | None, ...] = connection.execute(_wide_select(_STATE, width), part).fetchone()
        yield from row[:size]


_WRITE_STATES: Final = """
INSERT INTO states (actor, state)
WITH operation (address, epoch, state) AS (VALUES {rows})
SELECT actors.id, operation.state
FROM operation CROSS JOIN actors ON actors.address = operation.address AND actors.epoch = operation.epoch
WHERE true
ON CONFLICT (actor) DO UPDATE SET state = excluded.state
"""


def _commit(connection: sqlite3.Connection, commits: dict[int, Commit], outcomes: list[Outcome]) -> None:
    fences = _fences(connection, {(commit.address, commit.epoch) for commit in commits.values()})
    states: dict[str, tuple[_Value, ...]] = {}  # of several commits of one address the last state stays
    for index, commit in commits.items():
        stored = fences.get((commit.address, commit.epoch)) if fences else None
        if stored is not None:
            outcomes[index] = _fenced(commit, stored)
        elif commit.state is not None:
            states[commit.address] = (commit.address, commit.epoch, commit.state)
    if states:
        written = _execute(connection, _WRITE_STATES, states.values(), columns=3)
        assert written == len(states), (written, len(states))


_ERASE_STATES: Final = """
DELETE FROM states WHERE actor IN (
    WITH operation (address, epoch) AS (VALUES {rows})
    SELECT actors.id
    FROM operation CROSS JOIN actors ON actors.address = operation.address AND actors.epoch = operation.epoch
)
"""


def _delete(connection: sqlite3.Connection, deletes: dict[int, Delete], outcomes: list[Outcome]) -> None:
    claims = {(operation.address, operation.epoch) for operation in deletes.values()}
    fences = _fences(connection, claims)
    for index, operation in deletes.items():
        stored = fences.get((operation.address, operation.epoch))
        if stored is not None:
            outcomes[index] = _fenced(operation, stored)
    _execute(connection, _ERASE_STATES, claims, columns=2)  # matches owned addresses only


_FENCES: Final = """
WITH operation (address, epoch) AS (VALUES {rows})
SELECT operation.address, operation.epoch, coalesce(actors.epoch, 0)
FROM operation LEFT JOIN actors ON actors.address = operation.address
WHERE operation.address IS NOT NULL AND actors.epoch IS NOT operation.epoch
"""


def _fences(connection: sqlite3.Connection, claims: Collection[_Claim]) -> dict[_Claim, int]:
    """Those of the claims whose epoch is not the stored one, with the stored one (0: never opened)."""
    sql, parameters = _statement(_FENCES, claims, columns=2)
    return {(address, epoch): stored for address, epoch, stored in connection.execute(sql, parameters).fetchall()}


def _fenced(operation: Open | Commit | Delete, stored: int) -> Fenced:
    return Fenced(operation.address, epoch=operation.epoch, stored=stored)


def _execute(
    connection: sqlite3.Connection, template: str, rows: Collection[tuple[_Value, ...]], *, columns: int
) -> int:
    sql, parameters = _statement(template, rows, columns=columns)
    return connection.execute(sql, parameters).rowcount


def _statement(template: str, rows: Collection[tuple[_Value, ...]], *, columns: int) -> tuple[str, list[_Value | None]]:
    size = _padded(len(rows))
    parameters: list[_Value | None] = list(chain.from_iterable(rows))
    parameters.extend([None] * ((size - len(rows)) * columns))
    return _sql(template, columns, size), parameters


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


@cache
def _sql(template: str, columns: int, size: int) -> str:
    row = "(" + ", ".join("?" * columns) + ")"
    return template.format(rows=", ".join([row] * size))


@cache
def _wide_select(column: str, width: int) -> str:
    return "SELECT " + ", ".join([column] * width)
