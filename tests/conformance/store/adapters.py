"""The stores that the conformance suite runs over. A new store is a new class here and an entry in ``ADAPTERS``."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Protocol

from cluster.store import LocalStore, MemoryData, MemoryStore, open_store


class Place(Protocol):
    """One store, empty at first, and the way to open handles to it."""

    @property
    def url(self) -> str | None:
        """What ``open_store`` in another process opens it with; None if it cannot be shared by processes."""
        ...

    async def open(self) -> LocalStore:
        """Another handle to the same store."""
        ...


class MemoryPlace:
    url = None

    def __init__(self) -> None:
        self._data = MemoryData()

    async def open(self) -> LocalStore:
        return MemoryStore(self._data)


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"

    async def open(self) -> LocalStore:
        return await open_store(self.url)


NewPlace = Callable[[], Place]


def memory(_folder: Path) -> NewPlace:
    return MemoryPlace


def sqlite(folder: Path) -> NewPlace:
    numbers = count()
    return lambda: SqlitePlace(folder / f"{next(numbers)}.db")


ADAPTERS: dict[str, Callable[[Path], NewPlace]] = {"memory": memory, "sqlite": sqlite}
