"""The client: everything that this project asks of etcd."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.connection import Connection
from cluster.etcd.endpoint import Endpoint, Tls
from cluster.etcd.errors import EtcdPermissionDenied, EtcdRejected, EtcdUnavailable, LeaseNotFound, RevisionGone
from cluster.etcd.kv import (
    Compare,
    KeyValue,
    Op,
    RangeResult,
    TxnResult,
    decode,
    end_of,
    key_value,
    start_of,
    txn_request,
    txn_result,
)
from cluster.etcd.lease import KeepAlive, Lease, LeaseStatus
from cluster.etcd.method import (
    COMPACT,
    DELETE_RANGE,
    LEASE_GRANT,
    LEASE_REVOKE,
    LEASE_TIME_TO_LIVE,
    PUT,
    RANGE,
    TXN,
)
from cluster.etcd.watch import Watch

if TYPE_CHECKING:
    from actors.ports import Clock

_PAGE_FIRST = 500
_PAGE_MAX = 10_000
_PAGE_BYTES = 2 * 1024 * 1024
_RESTARTS = 5


class EtcdClient:
    """A client of one etcd cluster (API v3, etcd 3.4 and later), for one event loop.

    ``endpoints`` are ``http://host:port``, ``https://host:port`` or ``host:port``; they are asked in turn, each until
    it fails. ``timeout`` (seconds) bounds every single operation. Reads are repeated within it. A write is repeated
    only if it certainly reached no member: a write that ends with ``EtcdUnavailable`` took no effect, one that ends
    with ``EtcdOutcomeUnknown`` or is cancelled may have. Keys are text, values bytes.

    Raises ``ValueError`` for endpoints that cannot be ones and TLS files that cannot be read. All methods also raise
    ``EtcdAuthFailed``, and ``EtcdClosed`` after ``close``.

    >>> async def greet() -> None:
    ...     async with EtcdClient(["http://127.0.0.1:2379"]) as etcd:
    ...         await etcd.put("/greeting", b"hello")
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        if isinstance(endpoints, str) or not endpoints:
            raise ValueError(f"endpoints must be a list of at least one etcd address, not {endpoints!r}")
        if timeout <= 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
        if password is not None and user is None:
            raise ValueError("a password for etcd was given, but no user")
        members = [Endpoint(address, tls=tls) for address in endpoints]
        self._connection = Connection(members, user=user, password=password, timeout=timeout)
        self._keep_alives: list[KeepAlive] = []

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Verify that a quorum answers and the credentials are accepted. Optional: every operation connects by itself.

        Raises ``EtcdUnavailable`` naming each endpoint and its cause, ``EtcdAuthFailed``.
        """
        with suppress(EtcdPermissionDenied):  # then the user is known; what it may touch shows when it does
            await self._connection.read(RANGE, pb.RangeRequest(key=b"\0", limit=1))

    async def close(self) -> None:
        """Stop all keep-alives, end all watches and close the connections. Leases stay until they expire."""
        await asyncio.gather(*(keep_alive.stop() for keep_alive in self._keep_alives))
        await self._connection.close()

    async def get(self, key: str, *, prefix: bool = False, serializable: bool = False) -> RangeResult:
        """Read a key, or all keys that begin with ``key``, as of one revision; sorted, in pages where there are many.

        By default the read is linearizable: it sees every write that was finished before it began. ``serializable``
        reads may be stale; they need no quorum. Raises ``EtcdUnavailable``.
        """
        request = pb.RangeRequest(
            key=start_of(key, prefix=prefix),
            range_end=end_of(key, prefix=prefix),
            limit=_PAGE_FIRST,
            serializable=serializable,
        )
        for _ in range(_RESTARTS):
            try:
                return await self._pages(request)
            except RevisionGone:
                # Compacted under the read, or a stale member took over from a fresher one: begin again.
                continue
        raise EtcdUnavailable(f"reading {key!r} from etcd: compactions outran the read {_RESTARTS} times. Try again")

    async def _pages(self, first: pb.RangeRequest) -> RangeResult:
        request = pb.RangeRequest()
        request.CopyFrom(first)
        kvs: list[KeyValue] = []
        while True:
            page = await self._connection.read(RANGE, request, leader=not request.serializable)
            kvs += [key_value(kv) for kv in page.kvs]
            request.revision = request.revision or page.header.revision
            if not page.more or not page.kvs:
                return RangeResult(request.revision, kvs)
            request.key = page.kvs[-1].key + b"\0"
            # Values differ in size by orders of magnitude: follow what the last page weighed.
            request.limit = max(1, min(_PAGE_MAX, len(page.kvs) * _PAGE_BYTES // max(1, page.ByteSize())))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key, on a lease if one is given, and return the revision of the write.

        Raises ``EtcdUnavailable``, ``EtcdOutcomeUnknown``, ``LeaseNotFound``, ``EtcdRejected`` (too large).
        """
        request = pb.PutRequest(key=start_of(key), value=value, lease=lease)
        return (await self._connection.write(PUT, request)).header.revision

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        """Delete a key, or all keys that begin with ``key``, and return how many there were.

        Raises ``EtcdUnavailable``, ``EtcdOutcomeUnknown``.
        """
        request = pb.DeleteRangeRequest(key=start_of(key, prefix=prefix), range_end=end_of(key, prefix=prefix))
        return (await self._connection.write(DELETE_RANGE, request)).deleted

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], orelse: Sequence[Op] = ()) -> TxnResult:
        """If all conditions hold apply ``then``, else ``orelse``, in one step and one revision.

        A transaction without put and delete is sent like any write: once. Raises ``EtcdUnavailable``,
        ``EtcdOutcomeUnknown``, ``EtcdRejected`` (too many operations, a key that is written twice, an unknown lease).
        """
        return txn_result(await self._connection.write(TXN, txn_request(compare, then, orelse)))

    async def compact(self, revision: int) -> None:
        """Forget all history before ``revision``. Watches that still needed it end with ``Compacted``.

        Raises ``RevisionGone`` if it was compacted before or is not reached yet.
        """
        await self._connection.write(COMPACT, pb.CompactionRequest(revision=revision, physical=True))

    async def grant(self, ttl: int) -> Lease:
        """Create a lease of ``ttl`` seconds (etcd may grant more, see ``Lease.ttl``).

        Repeated until the timeout, under one id, so at most one lease comes of it. Raises ``EtcdUnavailable``; a lease
        that was created all the same expires by itself.
        """
        if ttl < 1:
            raise ValueError(f"the ttl of a lease must be at least 1 second, not {ttl}")
        request = pb.LeaseGrantRequest(TTL=ttl, ID=random.SystemRandom().randrange(1, 2**63))
        try:
            answer = await self._connection.read(LEASE_GRANT, request)
        except EtcdRejected as error:
            if "lease already exists" not in str(error):
                raise
            # An attempt whose answer was lost has created it: 63 random bits do not meet by chance.
            return Lease(request.ID, (await self.time_to_live(request.ID)).granted_ttl)
        return Lease(answer.ID, answer.TTL)

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete the keys on it. Fine if it is gone already. Raises ``EtcdUnavailable``."""
        with suppress(LeaseNotFound):
            await self._connection.read(LEASE_REVOKE, pb.LeaseRevokeRequest(ID=lease_id))

    async def time_to_live(self, lease_id: int) -> LeaseStatus:
        """How long a lease still lives, and the keys on it. Raises ``LeaseNotFound``, ``EtcdUnavailable``."""
        request = pb.LeaseTimeToLiveRequest(ID=lease_id, keys=True)
        answer = await self._connection.read(LEASE_TIME_TO_LIVE, request)
        if answer.TTL < 0:
            raise LeaseNotFound(f"lease {lease_id:x} is unknown to etcd: it expired, was revoked or never existed")
        return LeaseStatus(answer.ID, answer.TTL, answer.grantedTTL, [decode(key) for key in answer.keys])

    def keep_alive(self, lease: Lease, *, clock: "Clock") -> KeepAlive:
        """Begin to keep a lease alive. ``clock`` is the one on which ``KeepAlive.deadline`` counts.

        Call it inside the running loop, and stop it with ``KeepAlive.stop`` or ``close``.
        """
        keep_alive = KeepAlive(self._connection.renewer(), lease, clock=clock)
        self._keep_alives = [other for other in self._keep_alives if not other.stopped]
        self._keep_alives.append(keep_alive)
        return keep_alive

    def watch(self, key: str, *, prefix: bool = False, start_revision: int = 0) -> Watch:
        """Follow the changes of a key, or of all keys that begin with ``key``.

        From ``start_revision`` on, which must not lie beyond the next revision; after a ``get`` take its revision + 1.
        With 0 it begins when the first (empty) batch has arrived. See ``Watch`` for the guarantees; close it, or use it
        as a context manager.
        """
        return Watch(self._connection, key, prefix=prefix, start_revision=start_revision)
