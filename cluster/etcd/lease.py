"""Leases: keys that vanish when their owner stops saying that it lives, and the deadline that the owner can rely on."""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cluster.etcd.errors import EtcdClosed, EtcdError, EtcdUnavailable, LeaseNotFound
from cluster.etcd.pulse import Pulse
from cluster.etcd.renewer import Renewer

if TYPE_CHECKING:
    from actors.ports import Clock

_log = logging.getLogger(__name__)

_STOP_LIMIT = 2.0


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

    It does so in a thread of its own: an event loop that something blocks for less than the TTL loses nothing by it.
    Where the loop stands still for longer, nothing is renewed until it runs again, so that a silo that can do nothing
    does not keep others from doing it: they wait for twice the TTL at most.

    When a member goes silent or away it asks the next one by itself. Nothing of that raises: ``deadline`` and ``lost``
    tell how it stands. Made by ``EtcdClient.keep_alive``.
    """

    def __init__(self, renewer: Renewer, lease: Lease, *, clock: "Clock") -> None:
        self.lease = lease
        #: Set when etcd has said that the lease does not exist (any more). Then the keys on it are gone, too.
        self.lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._renewer = renewer
        self._clock = clock
        self._interval = lease.ttl / 3
        self._deadline = -math.inf
        self._confirmed = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping = threading.Event()
        self._pulse = Pulse(self._loop, clock)
        self._held_back = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"etcd keep-alive {lease.id:x}", daemon=True)
        self._thread.start()

    @property
    def deadline(self) -> float:
        """Until when the lease certainly lives, on the clock that was passed in, in its seconds.

        It is the moment at which the last confirmed keep-alive was sent plus the TTL that its answer granted: etcd
        began to count later than that. Minus infinity until the first confirmation. It never goes down; when ``lost``
        is set it means nothing any more. It can be read from any thread, and is up to date also for who has just
        blocked the loop.
        """
        return self._deadline  # one writer, and storing a reference is atomic

    @property
    def stopped(self) -> bool:
        """Whether it sends no more: after ``stop`` or the loss of the lease."""
        return self._ended.is_set()

    async def wait_confirmed(self) -> None:
        """Return when etcd has confirmed at least one keep-alive, so that ``deadline`` is set.

        Waits as long as no member can be reached; cancelling is harmless. Raises ``LeaseNotFound`` when the lease is
        lost and ``EtcdClosed`` when this keep-alive was stopped.
        """
        waits = {asyncio.ensure_future(event.wait()) for event in (self._confirmed, self.lost, self._ended)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.lost.is_set():
            raise LeaseNotFound(f"lease {self.lease.id:x} is gone: it expired or was revoked. Grant a new one")
        if not self._confirmed.is_set():
            raise EtcdClosed(f"the keep-alive of lease {self.lease.id:x} was stopped")

    async def stop(self) -> None:
        """Send no more keep-alives. The lease stays until it expires or is revoked.

        Ends what is under way, so it takes no time, also where etcd does not answer.
        """
        self._stopping.set()
        self._pulse.release()
        self._renewer.close()
        with contextlib.suppress(TimeoutError):  # a daemon thread that gRPC holds keeps nobody from going
            async with asyncio.timeout(_STOP_LIMIT):
                await self._ended.wait()

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.suppress(EtcdClosed):
                while not self._stopping.is_set():
                    self._beat()
        finally:
            self._renewer.close()
            self._tell(self._ended.set)

    def _beat(self) -> None:
        began = time.monotonic()
        if self._must_hold_back():
            self._pulse.wait(self._interval)
            return
        if not self._pulse.feel():
            self._stopping.set()
            return
        sent = self._clock.now()
        try:
            ttl = self._renewer.renew(self.lease.id, within=self._interval)
        except EtcdClosed:
            raise
        except EtcdUnavailable as error:
            if not self._failing:
                _log.warning("keep-alive of lease %x: %s. Trying again", self.lease.id, error)
            self._failing = True
            self._stopping.wait(self._renewer.pause)
        except Exception as error:
            # The deadline passes if this stays so, which is all that the owner must know.
            _log.error("keep-alive of lease %x: %s", self.lease.id, error, exc_info=not isinstance(error, EtcdError))
            self._stopping.wait(self._interval)
        else:
            self._renewed(sent, ttl)
            self._stopping.wait(max(0.0, began + self._interval - time.monotonic()))

    def _must_hold_back(self) -> bool:
        """Whether the loop has stood still for so long that its owner must not keep others waiting."""
        silence = self._pulse.silence
        if silence <= self.lease.ttl:
            if self._held_back:
                _log.warning("lease %x: the event loop runs again", self.lease.id)
            self._held_back = False
        elif not self._held_back:
            self._held_back = True
            _log.error(
                "lease %x: the event loop was seen to run %.1f s ago, and not since. The lease is not renewed while "
                "it stands still, so that others can take over",
                self.lease.id, silence,
            )  # fmt: skip
        return self._held_back

    def _renewed(self, sent: float, ttl: int) -> None:
        self._failing = False
        if ttl <= 0:
            self._stopping.set()
            self._tell(self.lost.set)
            return
        # One request is under way at a time, and one without an answer in time is given up: the answer is the one to
        # this request, and etcd began to count after it was sent.
        first = self._deadline == -math.inf
        self._deadline = max(self._deadline, sent + ttl)
        if first:
            self._tell(self._confirmed.set)

    def _tell(self, event: Callable[[], object]) -> None:
        """Let the loop know. One that is closed needs no lease."""
        try:
            self._loop.call_soon_threadsafe(event)
        except RuntimeError:
            self._stopping.set()
