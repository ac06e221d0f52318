"""The store that all silos share: the real ``MemoryStore``, reached over a path that is slow or fails.

What was sent to it is applied even if its sender has died or sleeps, as a database would.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from actors.ports import Commit, Due, Fenced, Opened, StoreUnavailable
from cluster.store.memory import MemoryData, MemoryStore
from tests.simulation.loop import PROCESS, Process, SimLoop

T = TypeVar("T")

CHAINED = True
"""Whether all later commits of an address are refused after a refused one, until it is opened again.

Real stores refuse those that were called before the refusal was told; the engine calls none after it, until it opens
the address again.
"""


class SharedStore:
    """The data, the trouble it has now, and who is told what became durable."""

    def __init__(self, loop: SimLoop, seed: random.Random) -> None:
        self.loop = loop
        self.random = seed
        self.data = MemoryData(id="store")
        self.slow = 0.0
        self.failing = 0.0
        self.cut_until: dict[str, float] = {}  # by host: what it sends stays in its buffers until then
        self.fence = True  # a planted bug takes it away
        self.chained = CHAINED
        self.on_open: Callable[[str, str, int], None] = lambda process, address, epoch: None
        self.on_commit: Callable[[str, Commit], None] = lambda process, commit: None
        self.on_fenced: Callable[[str, Fenced], None] = lambda process, fenced: None

    def rows(self, address: str, kind: bytes) -> dict[bytes, bytes]:
        """The stored records of one kind, by key."""
        record = self.data.records.get(address)
        found = record.records if record is not None else {}
        return {key: found[key] for key in sorted(found) if key.startswith(kind)}

    def delay(self) -> float:
        late = 20 if self.random.random() < 0.02 else 1
        return 0.0005 + 0.002 * self.random.random() * late + self.slow * self.random.random()


class SimStore:
    """One silo's handle: a ``Store`` whose operations take effect some time after the call."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self._store = MemoryStore(shared.data)
        self._process: Process = PROCESS.get()
        self._last: dict[str, float] = {}  # by address: when the last write is applied
        self._told: dict[str, float] = {}  # by address: when the last answer to a write is there
        self._refused: set[str] = set()
        self._closed = False

    @property
    def id(self) -> str:
        return self._store.id

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        return await self._answered(lambda: self._open(address, epoch, host), address)

    async def commit(self, commit: Commit) -> None:
        await self._answered(lambda: self._commit(commit), commit.address)

    async def read(
        self, address: str, first: bytes, last: bytes, *, limit: int, newest: bool = False
    ) -> list[tuple[bytes, bytes]]:
        return await self._answered(lambda: _now(self._store.read(address, first, last, limit=limit, newest=newest)))

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        return await self._answered(lambda: _now(self._store.due(before, hosts=hosts, after=after, limit=limit)))

    async def flagged(self, *, after: tuple[str, bytes] = ("", b""), limit: int) -> list[tuple[str, bytes, bytes]]:
        return await self._answered(lambda: _now(self._store.flagged(after=after, limit=limit)))

    async def state(self, address: str) -> bytes | None:
        return await self._answered(lambda: _now(self._store.state(address)))

    async def raise_era(self, atleast: int) -> int:
        await asyncio.sleep(self._shared.delay())
        return await self._store.raise_era(atleast)

    async def lock_exclusively(self) -> None:
        pass

    async def close(self) -> None:
        self._closed = True

    async def _answered(self, work: Callable[[], T], writes: str = "") -> T:
        """Let the work be done in the store, writes of one address, and their answers, in the order of the calls."""
        if self._closed:
            raise StoreUnavailable(f"{writes or 'a read'}: the store is closed")
        loop = self._shared.loop
        done: asyncio.Future[T] = loop.create_future()
        when = loop.time() + self._shared.delay()
        if writes:
            when = self._last[writes] = max(self._last.get(writes, 0.0), when)  # timers of one moment keep their order
        loop.call_at(when, self._apply, work, done, writes, context=loop.outside.context)
        return await done

    def _apply(self, work: Callable[[], T], done: "asyncio.Future[T]", writes: str) -> None:
        loop, shared = self._shared.loop, self._shared
        until = shared.cut_until.get(self._process.host, 0.0)
        if loop.time() < until:
            loop.call_at(until, self._apply, work, done, writes, context=loop.outside.context)
            return
        result: T | Exception
        try:
            if shared.random.random() < shared.failing:
                raise StoreUnavailable("the database is away")
            result = work()
        except (Fenced, StoreUnavailable) as error:
            result = error
            self._refused.add(writes)
        when = loop.time() + shared.delay()
        if writes:
            when = self._told[writes] = max(self._told.get(writes, 0.0), when)
        loop.arrive(self._process, when, self._settle, done, result)

    @staticmethod
    def _settle(done: "asyncio.Future[T]", result: T | Exception) -> None:
        if done.done():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def _open(self, address: str, epoch: int, host: str) -> Opened:
        self._refused.discard(address)
        found = self._unless_fenced(lambda: self._store.open(address, epoch, host), address, epoch)
        self._shared.on_open(self._process.name, address, epoch)
        return found

    def _commit(self, commit: Commit) -> None:
        if self._shared.chained and commit.address in self._refused:
            raise StoreUnavailable("a commit before it was refused")
        self._unless_fenced(lambda: self._store.commit(commit), commit.address, commit.epoch)
        self._shared.on_commit(self._process.name, commit)

    def _unless_fenced(self, work: Callable[[], Coroutine[Any, Any, T]], address: str, epoch: int) -> T:
        try:
            return _now(work())
        except Fenced as fenced:
            self._shared.on_fenced(self._process.name, fenced)
            if self._shared.fence:
                raise
            self._shared.data.records[address].epoch = epoch
            return _now(work())


def _now(operation: Coroutine[Any, Any, T]) -> T:
    """The result of an operation of the memory store: they never suspend."""
    try:
        operation.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("the memory store suspended")
