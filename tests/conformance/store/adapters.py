"""The stores that the conformance suite runs over. A new store is a new class here and an entry in ``ADAPTERS``."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol

from cluster.store import LocalStore, MemoryData, MemoryStore, open_store
from tests.conformance.store.postgres_server import shared_server


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


class PostgresPlace:
    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> LocalStore:
        return await open_store(self.url)


NewPlace = Callable[[], Place]


@contextmanager
def memory(_folder: Path) -> Iterator[NewPlace]:
    yield MemoryPlace


@contextmanager
def sqlite(folder: Path) -> Iterator[NewPlace]:
    numbers = count()
    yield lambda: SqlitePlace(folder / f"{next(numbers)}.db")


@contextmanager
def postgres(_folder: Path) -> Iterator[NewPlace]:
    server = shared_server()
    urls: list[str] = []

    def new_place() -> Place:
        urls.append(server.lend_database())
        return PostgresPlace(urls[-1])

    yield new_place
    for url in urls:
        server.take_back(url)


ADAPTERS: dict[str, Callable[[Path], AbstractContextManager[NewPlace]]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": postgres,
}
