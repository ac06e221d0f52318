"""What etcd does, as far as this project uses it: revisions, transactions, leases and the log that watches read."""

import random
from collections.abc import Callable

from cluster.etcd import Compacted, Event, EventKind, KeyValue, LeaseNotFound
from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.kv import DeleteResult, PutResult, RangeResult, Result, TxnResult, decode
from tests.simulation.loop import SimLoop

_Decision = tuple[bool, list["pb.RequestOp | _Decision"]]


class SimLease:
    def __init__(self, id: int, ttl: int, expires: float) -> None:
        self.id = id
        self.ttl = ttl
        self.expires = expires
        self.keys: set[str] = set()


class Etcd:
    """One linearizable table. ``away``: no quorum, so nothing is answered and no lease runs out."""

    def __init__(self, loop: SimLoop, seed: random.Random) -> None:
        self.loop = loop
        self.revision = 1
        self.compacted = 0
        self.away = False
        self.kvs: dict[str, KeyValue] = {}
        self.log: list[tuple[int, list[Event]]] = []
        self.listeners: list[Callable[[], None]] = []
        self.on_write: Callable[[Event], None] = lambda event: None
        self._leases: dict[int, SimLease] = {}
        self._random = seed
        self._lease_ids = 0

    # -- leases -----------------------------------------------------------------------------------------------------

    def grant(self, ttl: int) -> int:
        self._lease_ids += 1
        lease = self._leases[self._lease_ids] = SimLease(self._lease_ids, ttl, self.loop.time() + ttl)
        self._look_later(lease)
        return lease.id

    def renew(self, lease_id: int) -> int:
        """The TTL that is left, 0 if there is no such lease."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return 0
        lease.expires = self.loop.time() + lease.ttl
        return lease.ttl

    def revoke(self, lease_id: int) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None and lease.keys:
            self.revision += 1
            self._publish([self._delete(key) for key in sorted(lease.keys)])

    def come_back(self) -> None:
        """A new leader gives every lease its full time again."""
        self.away = False
        for lease in self._leases.values():
            lease.expires = self.loop.time() + lease.ttl

    def _look_later(self, lease: SimLease) -> None:
        when = max(lease.expires, self.loop.time()) + 0.01 + self._random.random() * 0.2
        self.loop.call_at(when, self._look, lease, context=self.loop.outside.context)

    def _look(self, lease: SimLease) -> None:
        if lease.id not in self._leases:
            return
        if self.away or self.loop.time() < lease.expires:
            self._look_later(lease)
        else:
            self.revoke(lease.id)

    # -- reads and writes -------------------------------------------------------------------------------------------

    def range(self, key: str, *, prefix: bool) -> list[KeyValue]:
        if not prefix:
            found = self.kvs.get(key)
            return [found] if found is not None else []
        return [self.kvs[name] for name in sorted(self.kvs) if name.startswith(key)]

    def txn(self, request: pb.TxnRequest) -> TxnResult:
        """All conditions, of nested transactions too, are judged before anything is written."""
        decision = self._decide(request)
        self._check_leases(decision)
        events: list[Event] = []
        writes = self._writes(decision)
        revision = self.revision + 1 if writes else self.revision
        self.revision = revision
        result = self._apply(decision, events)
        if events:
            self._publish(events)
        elif writes:
            self.revision = revision - 1  # deletes of nothing
        return result

    def _decide(self, request: pb.TxnRequest) -> _Decision:
        succeeded = all(self._holds(condition) for condition in request.compare)
        branch = request.success if succeeded else request.failure
        return succeeded, [self._decide(op.request_txn) if op.HasField("request_txn") else op for op in branch]

    def _holds(self, condition: pb.Compare) -> bool:
        found = self.kvs.get(decode(condition.key))
        actual: int | bytes
        wanted: int | bytes
        match condition.target:
            case pb.Compare.CREATE:
                actual, wanted = (found.create_revision if found else 0), condition.create_revision
            case pb.Compare.MOD:
                actual, wanted = (found.mod_revision if found else 0), condition.mod_revision
            case pb.Compare.VERSION:
                actual, wanted = (found.version if found else 0), condition.version
            case pb.Compare.LEASE:
                actual, wanted = (found.lease if found else 0), condition.lease
            case _:
                if found is None:
                    return False
                actual, wanted = found.value, condition.value
        match condition.result:
            case pb.Compare.EQUAL:
                return actual == wanted
            case pb.Compare.NOT_EQUAL:
                return actual != wanted
            case pb.Compare.LESS:
                return actual < wanted  # type: ignore[operator]
            case _:
                return actual > wanted  # type: ignore[operator]

    def _check_leases(self, decision: _Decision) -> None:
        for op in decision[1]:
            if isinstance(op, tuple):
                self._check_leases(op)
            elif op.HasField("request_put") and op.request_put.lease and op.request_put.lease not in self._leases:
                raise LeaseNotFound(f"lease {op.request_put.lease:x} is unknown")

    def _writes(self, decision: _Decision) -> bool:
        return any(
            self._writes(op) if isinstance(op, tuple) else not op.HasField("request_range") for op in decision[1]
        )

    def _apply(self, decision: _Decision, events: list[Event]) -> TxnResult:
        responses: list[Result] = []
        for op in decision[1]:
            if isinstance(op, tuple):
                responses.append(self._apply(op, events))
            elif op.HasField("request_range"):
                key, end = decode(op.request_range.key), op.request_range.range_end
                responses.append(RangeResult(self.revision, self.range(key, prefix=bool(end))))
            elif op.HasField("request_put"):
                events.append(self._put(decode(op.request_put.key), op.request_put.value, op.request_put.lease))
                responses.append(PutResult(self.revision))
            else:
                key = decode(op.request_delete_range.key)
                existed = key in self.kvs
                if existed:
                    events.append(self._delete(key))
                responses.append(DeleteResult(self.revision, int(existed)))
        return TxnResult(decision[0], self.revision, responses)

    def _put(self, key: str, value: bytes, lease: int) -> Event:
        before = self.kvs.get(key)
        created, version = (before.create_revision, before.version + 1) if before else (self.revision, 1)
        kv = self.kvs[key] = KeyValue(key, value, created, self.revision, version, lease)
        if before is not None and before.lease in self._leases:
            self._leases[before.lease].keys.discard(key)
        if lease:
            self._leases[lease].keys.add(key)
        return Event(EventKind.PUT, kv)

    def _delete(self, key: str) -> Event:
        before = self.kvs.pop(key)
        if before.lease in self._leases:
            self._leases[before.lease].keys.discard(key)
        return Event(EventKind.DELETE, KeyValue(key, b"", 0, self.revision, 0, 0))

    # -- watches ----------------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Forget the log: a watch that still needs it must begin anew."""
        self.compacted = self.revision
        self.log.clear()
        self._notify()

    def since(self, revision: int) -> list[tuple[int, list[Event]]]:
        """What was written from ``revision`` on. Raises ``Compacted``."""
        if revision <= self.compacted and revision <= self.revision:
            raise Compacted("the revision was compacted", compact_revision=self.compacted)
        return [entry for entry in self.log if entry[0] >= revision]

    def _publish(self, events: list[Event]) -> None:
        self.log.append((self.revision, events))
        for event in events:
            self.on_write(event)
        self._notify()

    def _notify(self) -> None:
        for listener in list(self.listeners):
            listener()
