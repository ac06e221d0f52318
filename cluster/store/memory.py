"""The store that lives and dies with the process: for tests, simulation and ``silo dev`` without a disk."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

from msgspec import UNSET

from actors.ports import COLD, FLAGGED, Commit, Due, Fenced, Opened, StoreUnavailable
from cluster.store.operations import Open, RaiseEra, check
from cluster.store.statistics import StoreStatistics


@dataclass(slots=True)
class _Record:
    epoch: int
    state: bytes | None = None
    records: dict[bytes, bytes] = field(default_factory=dict)
    wake: float | None = None
    host: str = ""


@dataclass(slots=True)
class MemoryData:
    """What the handles of one memory store share. It outlives them, as a file outlives its connections."""

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    era: int = 0
    records: dict[str, _Record] = field(default_factory=dict)


class MemoryStore:
    """A ``Store`` without durability. Every operation takes effect during the call, before the first suspension.

    Handles that are given the same ``MemoryData`` are one store with one ``id``, as two connections to a file are.
    """

    def __init__(self, data: MemoryData | None = None) -> None:
        self._data = MemoryData() if data is None else data
        self._closed = False
        self._operations = 0

    @property
    def id(self) -> str:
        """The random id of the shared data."""
        return self._data.id

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        """Raise the address's epoch and return what is stored; ``Fenced`` if it is another's. See the port."""
        self._begin()
        check(Open(address, epoch, host))
        record = self._data.records.setdefault(address, _Record(epoch))
        if epoch < record.epoch or (epoch == record.epoch and record.host not in ("", host)):
            raise Fenced(address, epoch=epoch, stored=record.epoch)
        record.epoch, record.host = epoch, host
        return Opened(record.state, {key: record.records[key] for key in sorted(record.records) if key < COLD})

    async def commit(self, commit: Commit) -> None:
        """Apply one turn's effects; ``Fenced`` unless its epoch is the address's highest."""
        self._begin()
        check(commit)
        record = self._data.records.get(commit.address)
        if record is None or record.epoch != commit.epoch:
            raise Fenced(commit.address, epoch=commit.epoch, stored=0 if record is None else record.epoch)
        records = record.records
        if commit.erase:
            records.clear()
            record.state = record.wake = None
        for first, last in commit.cut:
            for key in [key for key in records if first <= key < last]:
                del records[key]
        for key in commit.drop:
            records.pop(key, None)
        records.update(commit.put)
        if commit.state is not None:
            record.state = commit.state
        if commit.wake is not UNSET:
            record.wake = commit.wake
        if commit.asleep:
            record.host = ""

    async def read(
        self, address: str, first: bytes, last: bytes, *, limit: int, newest: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Records of a range of keys, in ascending order."""
        self._check_open()
        record = self._data.records.get(address)
        if record is None:
            return []
        found = sorted(item for item in record.records.items() if first <= item[0] < last)
        return found[-limit:] if newest and limit else found[:limit]

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        """Addresses that somebody must see to, soonest first."""
        self._check_open()
        found = sorted(
            Due(record.wake, address)
            for address, record in self._data.records.items()
            if record.wake is not None and record.wake <= before and (not record.host or record.host not in hosts)
        )
        return [due for due in found if after is None or due > after][:limit]

    async def flagged(self, *, after: tuple[str, bytes] = ("", b""), limit: int) -> list[tuple[str, bytes, bytes]]:
        """Flagged records of all addresses."""
        self._check_open()
        found = sorted(
            (address, key, value)
            for address, record in self._data.records.items()
            for key, value in record.records.items()
            if key.startswith(FLAGGED)
        )
        return [row for row in found if row[:2] > after][:limit]

    async def state(self, address: str) -> bytes | None:
        """The committed state."""
        self._check_open()
        record = self._data.records.get(address)
        return None if record is None else record.state

    async def raise_era(self, atleast: int) -> int:
        """Raise the era to ``atleast`` and return it; 0 reads it."""
        self._begin()
        check(RaiseEra(atleast))
        self._data.era = max(self._data.era, atleast)
        return self._data.era

    async def lock_exclusively(self) -> None:
        """Nothing to do: no other process can reach this memory."""
        self._check_open()

    async def close(self) -> None:
        """Close this handle. The data stays with the other handles."""
        self._closed = True

    def statistics(self) -> StoreStatistics:
        """Counts since this handle was made; every writing operation is a transaction of its own."""
        return StoreStatistics(
            operations=self._operations, transactions=self._operations, largest_group=min(self._operations, 1)
        )

    def _begin(self) -> None:
        self._check_open()
        self._operations += 1

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the memory store is closed")
