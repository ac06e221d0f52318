"""Each silo's connection to etcd. The real ``Membership`` and ``EtcdDirectory`` run on top of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from actors.ports import Clock
from cluster.etcd import (
    Compacted,
    Compare,
    EtcdClosed,
    EtcdError,
    EtcdOutcomeUnknown,
    EtcdUnavailable,
    Event,
    Lease,
    LeaseNotFound,
    Op,
    RangeResult,
    TxnResult,
    WatchBatch,
)
from cluster.etcd.kv import txn_request
from tests.simulation.etcd import Etcd
from tests.simulation.loop import PROCESS, Process
from tests.simulation.network import Network

T = TypeVar("T")

ETCD = "etcd"  # its host


class EtcdPath:
    """The way to etcd and what it takes: ``slow`` seconds more for every request, ``lag`` more for every event."""

    def __init__(self, etcd: Etcd, network: Network, seed: random.Random) -> None:
        self.etcd = etcd
        self.network = network
        self.random = seed
        self.slow = 0.0
        self.lag: dict[str, float] = {}

    def is_open(self, source: str, target: str) -> bool:
        return not self.etcd.away and not self.network.is_blocked(source, target)

    def delay(self) -> float:
        return self.network.arrival() - self.network.loop.time() + self.slow * self.random.random()


class SimEtcdClient:
    """Stands for ``EtcdClient``. A write whose answer is lost, or late, is done all the same."""

    path: EtcdPath

    def __init__(self, endpoints: Sequence[str], *, timeout: float = 2.0, **_: Any) -> None:
        self._process = PROCESS.get()
        self._timeout = timeout
        self._keep_alives: list[SimKeepAlive] = []
        self._closed = False

    async def connect(self) -> None:
        await self._request(lambda: None, write=False)

    async def close(self) -> None:
        self._closed = True
        for keep_alive in self._keep_alives:
            await keep_alive.stop()

    async def get(self, key: str, *, prefix: bool = False) -> RangeResult:
        etcd = self.path.etcd
        return await self._request(lambda: RangeResult(etcd.revision, etcd.range(key, prefix=prefix)), write=False)

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], orelse: Sequence[Op] = ()) -> TxnResult:
        request = txn_request(compare, then, orelse)
        return await self._request(lambda: self.path.etcd.txn(request), write=True)

    async def grant(self, ttl: int) -> Lease:
        return await self._request(lambda: Lease(self.path.etcd.grant(ttl), ttl), write=False)

    async def revoke(self, lease_id: int) -> None:
        await self._request(lambda: self.path.etcd.revoke(lease_id), write=False)

    async def renew(self, lease_id: int, *, timeout: float) -> int:
        """One keep-alive. Raises ``EtcdError``."""
        return await self._request(lambda: self.path.etcd.renew(lease_id), write=False, timeout=timeout)

    def keep_alive(self, lease: Lease, *, clock: Clock) -> "SimKeepAlive":
        keep_alive = SimKeepAlive(self, lease, clock=clock)
        self._keep_alives.append(keep_alive)
        return keep_alive

    def watch(self, key: str, *, prefix: bool = False, start_revision: int = 0) -> "SimWatch":
        return SimWatch(self.path, self._process, key, start_revision)

    async def _request(self, work: Callable[[], T], *, write: bool, timeout: float | None = None) -> T:
        if self._closed:
            raise EtcdClosed("the client was closed")
        exchange = _Exchange(self.path, self._process, work)
        try:
            async with asyncio.timeout(self._timeout if timeout is None else timeout):
                return await exchange.done  # type: ignore[no-any-return]
        except TimeoutError:
            exchange.given_up = True
            if exchange.departed and write:
                raise EtcdOutcomeUnknown("etcd was asked and did not answer in time") from None
            raise EtcdUnavailable("no member of etcd answered in time") from None


class _Exchange:
    """One request on its way to etcd and its answer on the way back."""

    def __init__(self, path: EtcdPath, process: Process, work: Callable[[], object]) -> None:
        self.path = path
        self.process = process
        self.work = work
        self.done = path.etcd.loop.create_future()
        self.departed = False
        self.given_up = False
        self._depart()

    def _depart(self) -> None:
        loop = self.path.etcd.loop
        if self.path.is_open(self.process.host, ETCD):
            self.departed = True
            loop.call_later(self.path.delay(), self._apply, context=loop.outside.context)
        elif not self.given_up and not self.process.dead:
            loop.call_later(0.05, self._depart, context=self.process.context)

    def _apply(self) -> None:
        loop = self.path.etcd.loop
        if self.path.etcd.away:
            if not self.given_up:
                loop.call_later(0.05, self._apply, context=loop.outside.context)
            return
        try:
            result: object = self.work()
        except EtcdError as error:
            result = error
        self._answer(result)

    def _answer(self, result: object) -> None:
        loop = self.path.etcd.loop
        if self.path.is_open(ETCD, self.process.host):
            loop.arrive(self.process, loop.time() + self.path.delay(), self._settle, result)
        elif not self.given_up and not self.process.dead:
            loop.call_later(0.05, self._answer, result, context=loop.outside.context)

    def _settle(self, result: object) -> None:
        if self.done.done():
            return
        if isinstance(result, EtcdError):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


class SimKeepAlive:
    """Stands for ``KeepAlive``: the same rule for the deadline, one request under way at a time."""

    def __init__(self, client: SimEtcdClient, lease: Lease, *, clock: Clock) -> None:
        self.lease = lease
        self.lost = asyncio.Event()
        self.deadline = float("-inf")
        self._client = client
        self._clock = clock
        self._decided = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def wait_confirmed(self) -> None:
        await self._decided.wait()
        if self.lost.is_set():
            raise LeaseNotFound(f"lease {self.lease.id:x} is gone")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        interval = self.lease.ttl / 3
        while not self.lost.is_set():
            sent = self._clock.now()
            try:
                ttl = await self._client.renew(self.lease.id, timeout=interval)
            except EtcdClosed:
                return
            except EtcdError:
                await asyncio.sleep(interval / 10)
                continue
            if ttl <= 0:
                self.lost.set()
                self._decided.set()
                return
            self.deadline = max(self.deadline, sent + ttl)
            self._decided.set()
            await asyncio.sleep(interval)


class SimWatch(AsyncIterator[WatchBatch]):
    """Stands for ``Watch``: every event once, in order, late by this silo's lag; ``Compacted`` where some are gone."""

    def __init__(self, path: EtcdPath, process: Process, prefix: str, start_revision: int) -> None:
        self._path = path
        self._process = process
        self._prefix = prefix
        self._next = start_revision
        self._inbox: list[WatchBatch] = []
        self._broken: Compacted | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._last = 0.0
        self._retrying = False
        path.etcd.listeners.append(self._push)
        self._push()

    def _push(self) -> None:
        etcd = self._path.etcd
        if self._process.dead:
            if self._push in etcd.listeners:
                etcd.listeners.remove(self._push)
            return
        loop = etcd.loop
        if not self._path.is_open(ETCD, self._process.host):
            if not self._retrying:
                self._retrying = True
                loop.call_later(0.05, self._retry, context=loop.outside.context)
            return
        lag = self._path.lag.get(self._process.host, 0.0) * self._path.random.random()
        self._last = max(self._last, loop.time() + self._path.delay() + lag)
        try:
            entries = etcd.since(self._next)
        except Compacted as error:
            if self._push in etcd.listeners:
                etcd.listeners.remove(self._push)
            loop.arrive(self._process, self._last, self._arrived, None, error)
            return
        for revision, events in entries:
            mine = [event for event in events if event.kv.key.startswith(self._prefix)]
            if mine:
                loop.arrive(self._process, self._last, self._arrived, (revision, mine), None)
        self._next = etcd.revision + 1

    def _retry(self) -> None:
        self._retrying = False
        self._push()

    def _arrived(self, batch: tuple[int, list[Event]] | None, broken: Compacted | None) -> None:
        if batch is not None:
            self._inbox.append(WatchBatch(*batch))
        self._broken = broken
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __anext__(self) -> WatchBatch:
        while not self._inbox:
            if self._broken is not None:
                raise self._broken
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._inbox.pop(0)
