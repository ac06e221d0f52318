"""The store that all silos share: the real ``MemoryStore``, reached over a path that is slow or fails.

What was sent to it is applied even if its sender has died or sleeps, as a database would.
"""

import asyncio
import random
from collections.abc import Callable

from actors.ports import Commit, Fenced, StoreUnavailable
from cluster.store.memory import MemoryData, MemoryStore
from tests.simulation.loop import PROCESS, Process, SimLoop


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
        self.on_open: Callable[[str, str, int], None] = lambda process, address, epoch: None
        self.on_commit: Callable[[str, Commit], None] = lambda process, commit: None
        self.on_fenced: Callable[[str, Fenced], None] = lambda process, fenced: None

    def state(self, address: str) -> bytes | None:
        record = self.data.records.get(address)
        return record.state if record is not None else None

    def delay(self) -> float:
        late = 20 if self.random.random() < 0.02 else 1
        return 0.0005 + 0.002 * self.random.random() * late + self.slow * self.random.random()


class SimStore:
    """One silo's handle: a ``Store`` whose operations take effect some time after the call."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self._store = MemoryStore(shared.data)
        self._process: Process = PROCESS.get()
        self._last: dict[str, float] = {}
        self._closed = False

    @property
    def id(self) -> str:
        return self._store.id

    async def open(self, address: str, epoch: int) -> bytes | None:
        await self._reach(address)
        return await self._answered(lambda: self._open(address, epoch), address)

    async def commit(self, commit: Commit) -> None:
        await self._reach(commit.address)
        await self._answered(lambda: self._commit(commit), commit.address)

    async def delete(self, address: str, epoch: int) -> None:
        raise NotImplementedError

    async def raise_era(self, atleast: int) -> int:
        await asyncio.sleep(self._shared.delay())
        return await self._store.raise_era(atleast)

    async def lock_exclusively(self) -> None:
        pass

    async def close(self) -> None:
        self._closed = True

    async def _reach(self, address: str) -> None:
        if self._closed:
            raise StoreUnavailable(f"{address}: the store is closed")

    async def _answered(self, work: Callable[[], bytes | None], address: str) -> bytes | None:
        """Let the work be done in the store, in the order of the calls to one address, and wait for the answer."""
        loop = self._shared.loop
        done: asyncio.Future[bytes | None] = loop.create_future()
        when = max(self._last.get(address, 0.0), loop.time() + self._shared.delay())
        self._last[address] = when  # timers of one moment fire in the order in which they were set
        loop.call_at(when, self._apply, work, done, context=loop.outside.context)
        return await done

    def _apply(self, work: Callable[[], bytes | None], done: "asyncio.Future[bytes | None]") -> None:
        loop, shared = self._shared.loop, self._shared
        until = shared.cut_until.get(self._process.host, 0.0)
        if loop.time() < until:
            loop.call_at(until, self._apply, work, done, context=loop.outside.context)
            return
        result: bytes | Exception | None
        try:
            if shared.random.random() < shared.failing:
                raise StoreUnavailable("the database is away")
            result = work()
        except (Fenced, StoreUnavailable) as error:
            result = error
        loop.arrive(self._process, loop.time() + shared.delay(), self._settle, done, result)

    @staticmethod
    def _settle(done: "asyncio.Future[bytes | None]", result: bytes | Exception | None) -> None:
        if done.done():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def _open(self, address: str, epoch: int) -> bytes | None:
        try:
            found = _now(self._store.open(address, epoch))
        except Fenced as fenced:
            self._shared.on_fenced(self._process.name, fenced)
            if self._shared.fence:
                raise
            found = self._shared.state(address)
        self._shared.on_open(self._process.name, address, epoch)
        return found

    def _commit(self, commit: Commit) -> None:
        try:
            _now(self._store.commit(commit))
        except Fenced as fenced:
            self._shared.on_fenced(self._process.name, fenced)
            if self._shared.fence:
                raise
            self._shared.data.records[commit.address].state = commit.state
        self._shared.on_commit(self._process.name, commit)


def _now(operation: "object") -> bytes | None:
    """The result of an operation of the memory store: they never suspend."""
    try:
        operation.send(None)  # type: ignore[attr-defined]
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("the memory store suspended")
