"""What a store should do, as a dict; and operations to try, as hypothesis draws them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hypothesis import strategies as st
from msgspec import UNSET

from actors.ports import Commit, Due, Fenced, Store
from cluster.store.operations import Open, Operation, Outcome, RaiseEra

ADDRESSES = ("session-1", "session-2", "session-é")
HOSTS = ("", "a.1", "b.1")
KEYS = (b"\0", b"\x05", b"\x05\xff", b"\x06", b"\x7f\xff", b"\x80", b"\x80\0", b"\xff", b"\xff\xff")
EVERYTHING = (b"", b"\xff" * 701)

Snapshot: TypeAlias = tuple[bytes | None, tuple[tuple[bytes, bytes], ...]]
Answer: TypeAlias = tuple[Any, ...] | str
"""An outcome in a form that compares also what dicts do not: the order of the records."""


def comparable(outcome: Outcome) -> Answer:
    if isinstance(outcome, Fenced):
        return str(outcome)
    if outcome is None or isinstance(outcome, int):
        return ("answer", outcome)
    return outcome.state, tuple(outcome.records.items())


async def run(store: Store, operation: Operation) -> Answer:
    """The outcome of the operation on the store; a fenced one as text."""
    try:
        if isinstance(operation, Open):
            return comparable(await store.open(operation.address, operation.epoch, operation.host))
        if isinstance(operation, RaiseEra):
            return comparable(await store.raise_era(operation.atleast))
        return comparable(await store.commit(operation))  # type: ignore[func-returns-value]
    except Fenced as refusal:
        return str(refusal)


@dataclass
class Actor:
    epoch: int
    state: bytes | None = None
    records: dict[bytes, bytes] = field(default_factory=dict)
    wake: float | None = None
    host: str = ""

    def apply(self, commit: Commit) -> None:
        if commit.erase:
            self.state, self.records, self.wake = None, {}, None
        self.records = {
            key: value
            for key, value in self.records.items()
            if key not in commit.drop and not any(first <= key < last for first, last in commit.cut)
        } | dict(commit.put)
        if commit.state is not None:
            self.state = commit.state
        if commit.wake is not UNSET:
            self.wake = commit.wake
        if commit.asleep:
            self.host = ""

    def hot(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(sorted((key, value) for key, value in self.records.items() if key[0] < 0x80))


@dataclass
class Model:
    """The simplest store that keeps the promises."""

    era: int = 0
    actors: dict[str, Actor] = field(default_factory=dict)

    def run(self, operation: Operation) -> Answer:
        """The outcome that the operation must have."""
        if isinstance(operation, RaiseEra):
            self.era = max(self.era, operation.atleast)
            return ("answer", self.era)
        actor = self.actors.get(operation.address)
        stored = actor.epoch if actor is not None else 0
        if isinstance(operation, Commit):
            fenced = operation.epoch != stored
        else:
            taken = actor is not None and actor.host not in ("", operation.host)
            fenced = operation.epoch < stored or (operation.epoch == stored and taken)
        if fenced:
            return str(Fenced(operation.address, epoch=operation.epoch, stored=stored))
        if isinstance(operation, Open):
            actor = self.actors.setdefault(operation.address, Actor(operation.epoch))
            actor.epoch, actor.host = operation.epoch, operation.host
            return actor.state, actor.hot()
        if actor is None:
            return str(Fenced(operation.address, epoch=operation.epoch, stored=0))
        actor.apply(operation)
        return ("answer", None)

    def state(self, address: str) -> bytes | None:
        actor = self.actors.get(address)
        return actor.state if actor is not None else None

    def read(self, address: str, first: bytes, last: bytes, limit: int, *, newest: bool) -> list[tuple[bytes, bytes]]:
        actor = self.actors.get(address, Actor(0))
        found = [(key, actor.records[key]) for key in sorted(actor.records) if first <= key < last]
        return found[max(len(found) - limit, 0) :] if newest else found[:limit]

    def due(self, before: float, hosts: Sequence[str], after: Due | None, limit: int) -> list[Due]:
        found = [
            Due(actor.wake, address)
            for address, actor in self.actors.items()
            if actor.wake is not None and actor.wake <= before and (actor.host == "" or actor.host not in hosts)
        ]
        return sorted(due for due in found if after is None or due > after)[:limit]

    def flagged(self, after: tuple[str, bytes], limit: int) -> list[tuple[str, bytes, bytes]]:
        return sorted(
            (address, key, value)
            for address, actor in self.actors.items()
            for key, value in actor.records.items()
            if key[0] == 5 and (address, key) > after
        )[:limit]


_addresses = st.sampled_from(ADDRESSES)
_epochs = st.sampled_from((1, 1, 1, 1, 1, 2, 2, 3))  # most often that of the owner
_keys = st.sampled_from(KEYS)
_bounds = st.sampled_from((b"", *KEYS, EVERYTHING[1]))
_values = st.binary(max_size=3)
_wakes = st.sampled_from((-1.0, 0.0, 0.5, 1e9))

_commits = st.builds(
    Commit,
    address=_addresses,
    epoch=_epochs,
    state=st.none() | _values,
    put=st.dictionaries(_keys, _values, max_size=4),
    drop=st.lists(_keys, max_size=3).map(tuple),
    cut=st.just(()) | st.lists(st.tuples(_bounds, _bounds), max_size=2).map(tuple),
    erase=st.sampled_from((False, False, False, True)),
    wake=st.just(UNSET) | st.none() | _wakes,
    asleep=st.sampled_from((False, False, True)),
)
_opens = st.builds(Open, address=_addresses, epoch=_epochs, host=st.sampled_from(HOSTS))
_eras = st.builds(RaiseEra, atleast=st.integers(0, 3))

operations: st.SearchStrategy[Operation] = _commits | _commits | _opens | _commits | _opens | _commits | _eras


@dataclass(frozen=True)
class Reads:
    """Arguments of one call of each reading operation."""

    address: str
    first: bytes
    last: bytes
    limit: int
    newest: bool
    before: float
    hosts: Sequence[str]
    after: Due | None
    after_flag: tuple[str, bytes]

    async def run(self, store: Store) -> tuple[object, ...]:
        """What the store answers."""
        return (
            await store.state(self.address),
            await store.read(self.address, self.first, self.last, limit=self.limit, newest=self.newest),
            await store.due(self.before, hosts=self.hosts, after=self.after, limit=self.limit),
            await store.flagged(after=self.after_flag, limit=self.limit),
        )

    def expected(self, model: Model) -> tuple[object, ...]:
        """What it should have answered."""
        return (
            model.state(self.address),
            model.read(self.address, self.first, self.last, self.limit, newest=self.newest),
            model.due(self.before, self.hosts, self.after, self.limit),
            model.flagged(self.after_flag, self.limit),
        )


reads: st.SearchStrategy[Reads] = st.builds(
    Reads,
    address=_addresses,
    first=_bounds,
    last=_bounds,
    limit=st.integers(1, 4) | st.just(1000),
    newest=st.booleans(),
    before=_wakes | st.just(float("inf")),
    hosts=st.lists(st.sampled_from(HOSTS), max_size=2, unique=True),
    after=st.none() | st.builds(Due, wake=_wakes, address=_addresses),
    after_flag=st.just(("", b"")) | st.tuples(_addresses, _keys),
)
