"""A group of operations as one SQLite transaction, in a number of SQL statements that hardly grows with the group.

``sqlite_rows`` says why that matters. The changes that several commits of a group make to one address are merged
first, and then written table by table.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, TypeAlias

from msgspec import UNSET, UnsetType

from actors.ports import COLD, Commit, Fenced, Opened
from cluster.store.operations import Open, Operation, Outcome, RaiseEra
from cluster.store.sqlite_read import Range, read_pages, unpacked
from cluster.store.sqlite_rows import execute, select_texts, select_wide


def apply(connection: sqlite3.Connection, operations: Sequence[Operation]) -> list[Outcome]:
    """Apply the operations, in order for each address, inside the transaction that the caller has begun.

    Returns the outcome of each. A fenced one changes nothing, whatever the others do.
    """
    outcomes: list[Outcome] = [None] * len(operations)
    commits = {place: operation for place, operation in enumerate(operations) if type(operation) is Commit}
    if len(commits) == len(operations):  # as most often
        _commit(connection, commits, outcomes)
        return outcomes
    for wave in _waves(operations):
        if wave.eras:
            _raise_era(connection, wave.eras, outcomes)
        if wave.opens:
            _open(connection, wave.opens, outcomes)
        if wave.commits:
            _commit(connection, wave.commits, outcomes)
    return outcomes


@dataclass(slots=True)
class _Wave:
    """Operations, by their place in the group, that may run as: all opens, then all commits."""

    eras: dict[int, RaiseEra] = field(default_factory=dict)
    opens: dict[int, Open] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)


def _waves(operations: Sequence[Operation]) -> Iterator[_Wave]:
    wave = _Wave()
    seen: set[str] = set()  # in this wave
    for place, operation in enumerate(operations):
        if isinstance(operation, RaiseEra):
            wave.eras[place] = operation
        elif isinstance(operation, Commit):
            seen.add(operation.address)
            wave.commits[place] = operation
        else:
            if operation.address in seen:  # one statement cannot fence two opens by one another
                yield wave
                wave = _Wave()
                seen.clear()
            seen.add(operation.address)
            wave.opens[place] = operation
    yield wave


def _raise_era(connection: sqlite3.Connection, eras: dict[int, RaiseEra], outcomes: list[Outcome]) -> None:
    for place, operation in eras.items():
        connection.execute("UPDATE store SET era = ?1 WHERE era < ?1", (operation.atleast,))
        outcomes[place] = connection.execute("SELECT era FROM store").fetchone()[0]


_RAISE_EPOCHS: Final = """
INSERT INTO actors (address, epoch, host)
WITH operation (address, epoch, host) AS (VALUES {rows})
SELECT address, epoch, host FROM operation WHERE address IS NOT NULL
ON CONFLICT (address) DO UPDATE SET epoch = excluded.epoch, host = excluded.host
WHERE epoch < excluded.epoch OR epoch = excluded.epoch AND host = ''
"""

# Hot records come as one text, unless that would be so large that groups of it strain the memory.
_STORED: Final = """(SELECT state FROM states WHERE actor = {0}), iif(
    (SELECT total(length(key) + length(value)) FROM records WHERE actor = {0} AND key < x'80') <= 262144,
    (SELECT group_concat(hex(key) || ' ' || hex(value)) FROM records WHERE actor = {0} AND key < x'80'),
    'large'
)"""


def _open(connection: sqlite3.Connection, opens: dict[int, Open], outcomes: list[Outcome]) -> None:
    execute(connection, _RAISE_EPOCHS, [(it.address, it.epoch, it.host) for it in opens.values()])
    owned: dict[int, tuple[int]] = {}
    owners = _owners(connection, {operation.address: operation.host for operation in opens.values()})
    for place, operation in opens.items():
        actor, epoch, is_host = owners[operation.address]
        if epoch == operation.epoch and is_host:
            owned[place] = (actor,)
        else:
            outcomes[place] = Fenced(operation.address, epoch=operation.epoch, stored=epoch)
    for place, (state, packed) in zip(owned, select_wide(connection, _STORED, list(owned.values())), strict=True):
        if packed == "large":
            records = dict(read_pages(connection, Range(opens[place].address, b"", COLD, limit=2**63)))
        else:
            records = {key: value for key, value in unpacked(packed) if value is not None}
        outcomes[place] = Opened(state, records)


@dataclass(slots=True)
class _Merged:
    """What several commits do to one address: fields as in ``Commit``, to be applied in the same order."""

    erase: bool = False
    cut: list[tuple[bytes, bytes]] = field(default_factory=list)
    drop: set[bytes] = field(default_factory=set)
    put: dict[bytes, bytes] = field(default_factory=dict)
    state: bytes | None = None
    wake: float | UnsetType | None = UNSET
    asleep: bool = False

    def add(self, commit: Commit) -> None:
        """Let a later commit follow."""
        if commit.erase:
            # The drops and cuts before it have nothing left to do.
            self.erase, self.state, self.wake = True, None, UNSET
            self.cut, self.drop, self.put = [], set(), {}
        for first, last in commit.cut:
            self.cut.append((first, last))
            for key in [key for key in self.put if first <= key < last]:
                del self.put[key]
        for key in commit.drop:
            self.drop.add(key)
            self.put.pop(key, None)
        self.put.update(commit.put)
        if commit.state is not None:
            self.state = commit.state
        if commit.wake is not UNSET:
            self.wake = commit.wake
        self.asleep |= commit.asleep


_Change: TypeAlias = Commit | _Merged


def _commit(connection: sqlite3.Connection, commits: dict[int, Commit], outcomes: list[Outcome]) -> None:
    owners = _owners(connection, dict.fromkeys((commit.address for commit in commits.values()), ""))
    changes: dict[int, _Change] = {}
    for place, commit in commits.items():
        actor, epoch, _ = owners.get(commit.address, _NEVER_OPENED)
        if epoch != commit.epoch or actor is None:
            outcomes[place] = Fenced(commit.address, epoch=commit.epoch, stored=epoch)
            continue
        before = changes.get(actor)
        if before is None:
            changes[actor] = commit  # most often the only one
        elif isinstance(before, _Merged):
            before.add(commit)
        else:
            merged = changes[actor] = _Merged()
            merged.add(before)
            merged.add(commit)
    _write(connection, sorted(changes.items(), key=itemgetter(0)))


_ERASE_STATES: Final = "DELETE FROM states WHERE actor IN (VALUES {rows})"
_ERASE_RECORDS: Final = "DELETE FROM records WHERE actor IN (VALUES {rows})"

_CUT: Final = "INSERT INTO cuts VALUES {rows}"
_DROP: Final = "INSERT INTO drops VALUES {rows}"

_PUT: Final = """
INSERT INTO records (actor, key, value)
WITH record (actor, key, value) AS (VALUES {rows})
SELECT actor, key, value FROM record WHERE actor IS NOT NULL
ON CONFLICT (actor, key) DO UPDATE SET value = excluded.value
"""

_WRITE_STATES: Final = """
INSERT INTO states (actor, state)
WITH change (actor, state) AS (VALUES {rows})
SELECT actor, state FROM change WHERE actor IS NOT NULL
ON CONFLICT (actor) DO UPDATE SET state = excluded.state
"""

_FORGET_WAKES: Final = "UPDATE actors SET wake = NULL WHERE id IN (VALUES {rows})"
_WAKE: Final = """
WITH change (actor, wake) AS (VALUES {rows})
UPDATE actors SET wake = change.wake FROM change WHERE id = change.actor
"""

_SLEEP: Final = "UPDATE actors SET host = '' WHERE id IN (VALUES {rows})"


def _write(connection: sqlite3.Connection, changes: Sequence[tuple[int, _Change]]) -> None:
    if erased := [(actor,) for actor, change in changes if change.erase]:
        execute(connection, _ERASE_STATES, erased)
        execute(connection, _ERASE_RECORDS, erased)
        execute(connection, _FORGET_WAKES, erased)
    if cut := [(actor, *bounds) for actor, change in changes for bounds in change.cut]:
        execute(connection, _CUT, cut)
    if drop := [(actor, key) for actor, change in changes for key in change.drop]:
        execute(connection, _DROP, drop)
    if put := [(actor, key, value) for actor, change in changes for key, value in change.put.items()]:
        execute(connection, _PUT, put)
    if states := [(actor, change.state) for actor, change in changes if change.state is not None]:
        execute(connection, _WRITE_STATES, states)
    if wakes := [(actor, change.wake) for actor, change in changes if change.wake is not UNSET]:
        execute(connection, _WAKE, wakes)
    if asleep := [(actor,) for actor, change in changes if change.asleep]:
        execute(connection, _SLEEP, asleep)


_NEVER_OPENED: Final = (None, 0, False)
_OWNERS: Final = """
WITH operation (place, address, host) AS (VALUES {rows})
SELECT group_concat(place || ',' || id || ',' || epoch || ',' || (actors.host = operation.host))
FROM operation CROSS JOIN actors ON actors.address = operation.address
"""


def _owners(connection: sqlite3.Connection, hosts: Mapping[str, str]) -> dict[str, tuple[int, int, bool]]:
    """By address, of those that were ever opened: its row, its epoch, and whether it is with the given host."""
    places = list(hosts)
    numbers: list[int] = []
    for text in select_texts(
        connection, _OWNERS, [(place, address, hosts[address]) for place, address in enumerate(places)]
    ):
        numbers += map(int, text.split(","))
    rows = zip(*[iter(numbers)] * 4, strict=True)
    return {places[place]: (actor, epoch, bool(is_host)) for place, actor, epoch, is_host in rows}
