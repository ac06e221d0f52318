"""What the engine's ports are replaced with in these tests, and ways to wait without sleeping."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from actors.alone import LonelyDirectory
from actors.envelope import Envelope
from actors.ports import Commit, Opened, Route
from cluster.store.memory import MemoryData, MemoryStore

T = TypeVar("T")

PATIENCE = 3.0  # seconds; only a test that fails waits for so long


async def soon(awaitable: Awaitable[T]) -> T:
    """The awaitable's result; a hang becomes a failure of the test."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(condition: Callable[[], object], what: str) -> None:
    """Give the loop turns until the condition holds. For what has no event to wait for."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  # what it waits for has no event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


async def settle(rounds: int = 30) -> None:
    """Give everything that can run without outside help its chance to run."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class LoopTime:
    """Lets the loop's time pass at once: timers that have become due fire."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passed = 0.0
        self._real = loop.time
        loop.time = self.now  # type: ignore[method-assign]

    def now(self) -> float:
        return self._real() + self._passed

    async def jump(self, seconds: float) -> None:
        self._passed += seconds
        await settle()


class ManualClock:
    """The port's clock, set by hand."""

    def __init__(self, now: float = 100.0) -> None:
        self.monotonic = now

    def now(self) -> float:
        return self.monotonic

    def time(self) -> float:
        return 1_700_000_000.0 + self.monotonic


class LeasedDirectory(LonelyDirectory):
    """A directory whose silo may act until ``lease_end``, with claims that can be made to fail or to wait."""

    def __init__(self, types: list[str], *, era: int = 1) -> None:
        super().__init__(types, era=era)
        self.lease_end = float("inf")
        self.failures: list[Exception] = []
        self.claims: list[str] = []
        self.released: list[str] = []
        self.gate: asyncio.Event | None = None

    @property
    def deadline(self) -> float:
        return self.lease_end

    async def claim(self, address: str) -> Route:
        self.claims.append(address)
        if self.failures:
            raise self.failures.pop(0)
        if self.gate is not None:
            await self.gate.wait()
        return await super().claim(address)

    async def release(self, address: str, epoch: int) -> None:
        self.released.append(address)
        await super().release(address, epoch)


class ScriptedStore(MemoryStore):
    """A memory store that records its commits, and refuses or delays them when told to."""

    def __init__(self, data: MemoryData | None = None) -> None:
        self.data = data or MemoryData()
        super().__init__(self.data)
        self.commits: list[Commit] = []
        self.attempts = 0
        self.opened: list[str] = []
        self.refusals: list[Exception] = []
        self.open_failures: list[Exception] = []
        self._gate = asyncio.Event()
        self._gate.set()
        self.waiting = asyncio.Event()
        """Set when a commit has reached the closed gate."""

    def hold(self) -> None:
        """Let commits wait from now on, before they take effect."""
        self.waiting.clear()
        self._gate.clear()

    def let_go(self) -> None:
        """Let waiting commits take effect."""
        self._gate.set()

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        self.opened.append(address)
        if self.open_failures:
            raise self.open_failures.pop(0)
        return await super().open(address, epoch, host)

    async def commit(self, commit: Commit) -> None:
        self.attempts += 1
        if self._gate.is_set():
            await self._apply(commit)
        else:
            self.waiting.set()
            await asyncio.shield(asyncio.ensure_future(self._apply(commit)))  # who waits may go: it is applied

    async def _apply(self, commit: Commit) -> None:
        await self._gate.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        await super().commit(commit)
        self.commits.append(commit)

    def bytes_of(self, address: str) -> bytes | None:
        """The stored state as it is."""
        record = self.data.records.get(address)
        return record.state if record is not None else None

    def state_of(self, address: str) -> Any:
        """The stored state as plain values, None without one."""
        stored = self.bytes_of(address)
        return None if stored is None else msgspec.msgpack.decode(stored[1:])


class FakeLink:
    """The other end of a connection: what the runtime sends there can be read here."""

    def __init__(self, peer: str = "client-1", *, trusted: bool, peer_is_silo: bool = False) -> None:
        self._peer, self._trusted, self._peer_is_silo = peer, trusted, peer_is_silo
        self.sent: list[Envelope] = []
        self.closed = False
        self.departing = False
        self.version = 2

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def peer_is_silo(self) -> bool:
        return self._peer_is_silo

    @property
    def trusted(self) -> bool:
        return self._trusted

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)

    async def answer(self) -> Envelope:
        """The first envelope that has come and was not read yet."""
        await until(lambda: self.sent, f"an answer to {self._peer}")
        return self.sent.pop(0)
