"""Leases: keys that vanish when their owner stops saying that it lives, and the deadline that the owner can rely on."""

import asyncio
import logging
import math
from typing import TYPE_CHECKING

import msgspec

from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.connection import Connection
from cluster.etcd.errors import EtcdClosed, EtcdError, LeaseNotFound
from cluster.etcd.method import LEASE_KEEP_ALIVE
from cluster.etcd.recovery import Recovery
from cluster.etcd.stream import Stream, StreamBroken

if TYPE_CHECKING:
    from actors.ports import Clock

_log = logging.getLogger(__name__)


class Lease(msgspec.Struct, frozen=True):
    """A granted lease. ``ttl`` is what etcd granted, in seconds; it may be more than was asked for."""

    id: int
    ttl: int


class LeaseStatus(msgspec.Struct, frozen=True):
    """What etcd knows of a lease: the seconds that it has left, its full TTL, and the keys that hang on it."""

    id: int
    ttl: int
    granted_ttl: int
    keys: list[str]


class KeepAlive:
    """Keeps one lease alive, every third of its TTL, until ``stop`` or until etcd says that the lease is gone.

    When a member goes silent or away it asks the next one by itself. Nothing of that raises: ``deadline`` and ``lost``
    tell how it stands. Made by ``EtcdClient.keep_alive``.
    """

    def __init__(self, connection: Connection, lease: Lease, *, clock: "Clock") -> None:
        self.lease = lease
        #: Set when etcd has said that the lease does not exist (any more). Then the keys on it are gone, too.
        self.lost = asyncio.Event()
        self._recovery = Recovery(connection, purpose=f"keep-alive of lease {lease.id:x}")
        self._clock = clock
        self._deadline = -math.inf
        self._confirmed = asyncio.Event()
        self._interval = lease.ttl / 3
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"etcd keep-alive {lease.id:x}")

    @property
    def deadline(self) -> float:
        """Until when the lease certainly lives, on the clock that was passed in, in its seconds.

        It is the moment at which the last confirmed keep-alive was sent plus the TTL that its answer granted: etcd
        began to count later than that. Minus infinity until the first confirmation. It never goes down; when ``lost``
        is set it means nothing any more.
        """
        return self._deadline

    @property
    def stopped(self) -> bool:
        """Whether it sends no more: after ``stop`` or the loss of the lease."""
        return self._task.done()

    async def wait_confirmed(self) -> None:
        """Return when etcd has confirmed at least one keep-alive, so that ``deadline`` is set.

        Waits as long as no member can be reached; cancelling is harmless. Raises ``LeaseNotFound`` when the lease is
        lost and ``EtcdClosed`` when this keep-alive was stopped.
        """
        waits = {
            asyncio.ensure_future(self._confirmed.wait()),
            asyncio.ensure_future(self.lost.wait()),
        }
        try:
            await asyncio.wait({*waits, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.lost.is_set():
            raise LeaseNotFound(f"lease {self.lease.id:x} is gone: it expired or was revoked. Grant a new one")
        if not self._confirmed.is_set():
            raise EtcdClosed(f"the keep-alive of lease {self.lease.id:x} was stopped")

    async def stop(self) -> None:
        """Send no more keep-alives. The lease stays until it expires or is revoked."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self.lost.is_set():
            stream: Stream[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse] | None = None
            abandon = False
            try:
                stream = await self._recovery.open(LEASE_KEEP_ALIVE, within=self._interval)
                await self._beat(stream)
            except StreamBroken as broken:
                abandon = True
                await self._recover(broken)
            except EtcdClosed:
                return
            finally:
                if stream is not None:
                    await stream.close(abandon=abandon)

    async def _recover(self, broken: StreamBroken) -> None:
        try:
            await self._recovery.after(broken)
        except EtcdError as error:
            # The deadline passes if this stays so, which is all that the owner must know.
            _log.error("keep-alive of lease %x: %s", self.lease.id, error)
            await asyncio.sleep(self._interval)

    async def _beat(self, stream: Stream[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]) -> None:
        """Send and confirm, one at a time, until the lease is lost or the stream fails.

        One request is under way at most, and a stream that did not answer in time is given up with it. So an answer
        always belongs to the request before it, and never extends the deadline by more than its sending time allows.
        """
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            sent = self._clock.now()
            await stream.send(pb.LeaseKeepAliveRequest(ID=self.lease.id), within=self._interval)
            try:
                answer = await stream.receive(within=self._interval)
            except TimeoutError:
                raise stream.broken(f"no answer to a keep-alive for {self._interval:.3g} s") from None
            if answer.TTL <= 0:
                self.lost.set()
                return
            self._deadline = max(self._deadline, sent + answer.TTL)
            self._confirmed.set()
            try:
                # Nothing is due: this waits out the interval, and ends at once when the stream breaks.
                await stream.receive(within=max(0.0, began + self._interval - loop.time()))
            except TimeoutError:
                continue
            raise stream.broken("an answer came without a request")
