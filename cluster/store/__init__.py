"""Where actors' durable records live. ``open_store`` opens the store that a URL names."""

from typing import Protocol
from urllib.parse import quote, unquote

from actors.ports import Store
from cluster.store.errors import StoreInUse, UnusableStore
from cluster.store.memory import MemoryData, MemoryStore
from cluster.store.postgres import PostgresStore
from cluster.store.postgres_errors import OutcomeInDoubt
from cluster.store.sqlite import SqliteStore
from cluster.store.statistics import StoreStatistics

__all__ = [
    "LocalStore",
    "MemoryData",
    "MemoryStore",
    "OutcomeInDoubt",
    "PostgresStore",
    "SqliteStore",
    "StoreInUse",
    "StoreStatistics",
    "UnusableStore",
    "open_store",
]

_SUPPORTED = "supported are memory:, sqlite:///relative.db, sqlite:////absolute.db and postgresql://host/database"


class LocalStore(Store, Protocol):
    """A ``Store`` that a silo can also claim and observe."""

    async def lock_exclusively(self) -> None:
        """Refuse everybody else until this handle is closed. Raises ``StoreInUse`` if another uses the store now."""
        ...

    def statistics(self) -> StoreStatistics:
        """What this handle has done since it was opened."""
        ...


async def open_store(url: str) -> LocalStore:
    """Open the store of a URL: ``memory:``, ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or
    ``postgresql://user:password@host:port/database``.

    Path, user and password may be percent-encoded. Each ``memory:`` is a new store. Raises ``ValueError`` for a URL
    that names no store, ``UnusableStore`` for one that this silo must not use, ``StoreUnavailable`` for one that is
    away just now. Cancelling gives everything back.
    """
    scheme, colon, rest = url.partition(":")
    if not colon:
        # Only part of what could be a mistyped secret is worth repeating: none of it.
        raise ValueError(f"store URL: no scheme, such as sqlite:; {_SUPPORTED}")
    if scheme == "memory":
        if rest:
            raise ValueError(f"store URL: memory: is the whole URL, {rest!r} cannot follow; {_SUPPORTED}")
        return MemoryStore()
    if scheme == "sqlite":
        return await SqliteStore.open_file(_sqlite_path(rest))
    if scheme in ("postgres", "postgresql"):
        return await PostgresStore.open_url(url)
    raise ValueError(f"store URL: unknown scheme {scheme!r}; {_SUPPORTED}")


def _sqlite_path(rest: str) -> str:
    if not rest.startswith("//"):
        raise ValueError(f"store URL: sqlite: needs three slashes and a path, as in sqlite:///silo.db, not {rest!r}")
    host, slash, path = rest[2:].partition("/")
    if host:
        raise ValueError(
            f"store URL: sqlite: has no host, but {host.rpartition('@')[2]!r} stands in its place; "
            "a relative path follows three slashes, an absolute one four"
        )
    for mark, part in (("?", "query"), ("#", "fragment")):
        if mark in path:
            raise ValueError(
                f"store URL: sqlite: has no {part}, but {mark!r} begins one (in a path it is {quote(mark)})"
            )
    path = unquote(path)
    if not slash or not path or path.endswith("/"):
        raise ValueError("store URL: sqlite: names no file; a path follows three slashes, as in sqlite:///silo.db")
    if path == ":memory:":
        raise ValueError("store URL: the path ':memory:' is not a file; use memory: for a store without one")
    if "\0" in path:
        raise ValueError("store URL: the path contains a zero byte")
    return path
