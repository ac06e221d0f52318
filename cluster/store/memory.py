"""The store that lives and dies with the process: for tests, simulation and ``silo dev`` without a disk."""

import secrets
from dataclasses import dataclass, field

from actors.ports import Commit, Fenced, StoreUnavailable
from cluster.store.statistics import StoreStatistics


@dataclass(slots=True)
class _Record:
    epoch: int
    state: bytes | None = None


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

    async def open(self, address: str, epoch: int) -> bytes | None:
        """Raise the address's epoch to ``epoch`` and return its state; ``Fenced`` if a higher one has opened it."""
        self._begin()
        record = self._data.records.setdefault(address, _Record(epoch))
        if epoch < record.epoch:
            raise Fenced(address, epoch=epoch, stored=record.epoch)
        record.epoch = epoch
        return record.state

    async def commit(self, commit: Commit) -> None:
        """Apply one turn's effects; ``Fenced`` unless its epoch is the address's highest."""
        self._begin()
        record = self._owned(commit.address, commit.epoch)
        if commit.state is not None:
            record.state = commit.state

    async def delete(self, address: str, epoch: int) -> None:
        """Erase everything of the address but its epoch, fenced like a commit."""
        self._begin()
        self._owned(address, epoch).state = None

    async def raise_era(self, atleast: int) -> int:
        """Raise the era to ``atleast`` and return it; 0 reads it."""
        self._begin()
        self._data.era = max(self._data.era, atleast)
        return self._data.era

    async def lock_exclusively(self) -> None:
        """Nothing to do: no other process can reach this memory."""
        self._begin()

    async def close(self) -> None:
        """Close this handle. The data stays with the other handles."""
        self._closed = True

    def statistics(self) -> StoreStatistics:
        """Counts since this handle was made; every operation is a transaction of its own."""
        return StoreStatistics(
            operations=self._operations, transactions=self._operations, largest_group=min(self._operations, 1)
        )

    def _begin(self) -> None:
        if self._closed:
            raise StoreUnavailable("the memory store is closed")
        self._operations += 1

    def _owned(self, address: str, epoch: int) -> _Record:
        record = self._data.records.get(address)
        if record is None or record.epoch != epoch:
            raise Fenced(address, epoch=epoch, stored=0 if record is None else record.epoch)
        return record
