"""A group of operations as one request to the database, and the database's answer as their outcomes.

A group is what one call of ``agentsilo.apply`` can do: of each address either one open, or commits of one epoch, which
are merged into one; and one era.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, TypeVar

from msgspec import UNSET, UnsetType

from actors.ports import Commit, Fenced, Opened
from cluster.store.operations import LONGEST_KEY, Open, Operation, Outcome, RaiseEra

_T = TypeVar("_T")

_ALL_KEYS: Final = (b"", b"\xff" * (LONGEST_KEY + 1))


@dataclass(slots=True)
class GroupRule:
    """Says, operation by operation, whether the next one fits into the group."""

    _firsts: dict[str, Open | Commit] = field(default_factory=dict)
    _has_era: bool = False

    def admits(self, operation: Operation) -> bool:
        """Whether it fits; if so, it is now part of the group."""
        if isinstance(operation, RaiseEra):
            admitted, self._has_era = not self._has_era, True
            return admitted
        first = self._firsts.setdefault(operation.address, operation)
        both_commit = isinstance(first, Commit) and isinstance(operation, Commit)
        return first is operation or (both_commit and first.epoch == operation.epoch)


@dataclass(slots=True)
class MergedCommit:
    """What several commits of one owner come to. Applied like one: ``erase``, ``cut``, ``drop``, then the rest."""

    epoch: int
    erase: bool = False
    cut: list[tuple[bytes, bytes]] = field(default_factory=list)
    drop: set[bytes] = field(default_factory=set)
    put: dict[bytes, bytes] = field(default_factory=dict)
    state: bytes | None = None
    wake: float | UnsetType | None = UNSET
    asleep: bool = False

    def add(self, commit: Commit) -> None:
        """Do what the commit does, after all that is here."""
        if commit.erase:
            self.erase, self.state, self.wake = True, None, None
            self.put.clear()
        for first, last in commit.cut:
            for key in [key for key in self.put if first <= key < last]:
                del self.put[key]
            self.cut.append((first, last))
        for key in commit.drop:
            self.put.pop(key, None)
        self.drop.update(commit.drop)
        self.put.update(commit.put)
        if commit.state is not None:
            self.state = commit.state
        if commit.wake is not UNSET:
            self.wake = commit.wake
        self.asleep = self.asleep or commit.asleep


_NO_EFFECTS: Final = MergedCommit(epoch=0)


@dataclass(frozen=True, slots=True)
class Stored:
    """What opens asked for: states, by address of the request; hot records as (place from 1, key, value)."""

    states: Sequence[bytes | None]
    hot: Sequence[tuple[int, bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """The stored epoch by address of the request (-1: never opened), the era, and what opens asked for.

    ``stored`` None: the answer was lost and found again, but for what was read.
    """

    epochs: Sequence[int]
    era: int | None
    stored: Stored | None


class Request:
    """A group in the shape of the arguments of ``agentsilo.apply``, which are described there."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.atleast: int | None = None
        claims: dict[str, Open | Commit | MergedCommit] = {}
        for operation in operations:
            if isinstance(operation, RaiseEra):
                self.atleast = operation.atleast
                continue
            claim = claims.setdefault(operation.address, operation)
            if claim is operation:
                continue
            assert isinstance(operation, Commit)
            assert not isinstance(claim, Open)
            if isinstance(claim, Commit):
                first, claim = claim, MergedCommit(claim.epoch)
                claim.add(first)
                claims[operation.address] = claim
            claim.add(operation)
        self.addresses = sorted(claims)
        self.epochs: list[int] = []
        self.hosts: list[str | None] = []
        self.states: list[bytes | None] = []
        self.wakes: list[float | None] = []
        self.erased: list[bool | None] = []
        self.asleep: list[bool | None] = []
        self.cut_of: list[int] = []
        self.cut_first: list[bytes] = []
        self.cut_last: list[bytes] = []
        self.dropped_of: list[int] = []
        self.dropped: list[bytes] = []
        self.put_of: list[int] = []
        self.put_keys: list[bytes] = []
        self.put_values: list[bytes] = []
        for place, address in enumerate(self.addresses, 1):
            claim = claims[address]
            self.epochs.append(claim.epoch)
            if isinstance(claim, Open):
                self.hosts.append(claim.host)
                claim = _NO_EFFECTS
            else:
                self.hosts.append(None)
            self._add(place, claim)

    def _add(self, place: int, commit: Commit | MergedCommit) -> None:
        self.states.append(commit.state)
        if commit.wake is UNSET:
            self.wakes.append(inf if commit.erase else None)
        else:
            self.wakes.append(inf if commit.wake is None else commit.wake)
        self.erased.append(commit.erase or None)
        self.asleep.append(commit.asleep or None)
        for first, last in (_ALL_KEYS,) if commit.erase else commit.cut:
            self.cut_of.append(place)
            self.cut_first.append(first)
            self.cut_last.append(last)
        if commit.drop:
            self.dropped_of.extend([place] * len(commit.drop))
            self.dropped.extend(commit.drop)
        if commit.put:
            self.put_of.extend([place] * len(commit.put))
            self.put_keys.extend(commit.put)
            self.put_values.extend(commit.put.values())

    def arguments(self) -> tuple[object, ...]:
        """Those behind the session and the number, in their order."""
        return (
            *(self.addresses, self.epochs, _short(self.hosts)),
            *(_short(self.states), _short(self.wakes), _short(self.erased), _short(self.asleep)),
            *(self.cut_of, self.cut_first, self.cut_last),
            *(self.dropped_of, self.dropped),
            *(self.put_of, self.put_keys, self.put_values),
            self.atleast,
        )

    def size(self) -> int:
        """The bytes of its values."""
        return sum(map(len, self.put_values)) + sum(len(state) for state in self.states if state is not None)

    def outcomes(self, reply: Reply) -> list[Outcome]:
        """What the reply means for each operation."""
        places = {address: place for place, address in enumerate(self.addresses)}
        return list(self._outcomes(reply, places))

    def _outcomes(self, reply: Reply, places: dict[str, int]) -> Iterable[Outcome]:
        opened = _opened(reply.stored)
        for operation in self.operations:
            if isinstance(operation, RaiseEra):
                yield reply.era
                continue
            place = places[operation.address]
            epoch = reply.epochs[place]
            if epoch != operation.epoch:
                yield Fenced(operation.address, epoch=operation.epoch, stored=epoch if epoch >= 0 else ~epoch)
            elif isinstance(operation, Open):
                yield opened.get(place, Opened())
            else:
                yield None


def _short(values: list[_T | None]) -> Sequence[_T | None]:
    return values if values.count(None) < len(values) else ()


def _opened(stored: Stored | None) -> dict[int, Opened]:
    """By place from 0; without those of which nothing is stored."""
    if stored is None:
        return {}
    opened = {place: Opened(state, {}) for place, state in enumerate(stored.states) if state is not None}
    for place, key, value in sorted(stored.hot):
        opened.setdefault(place - 1, Opened(None, {})).records[key] = value
    return opened
