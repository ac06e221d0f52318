"""A small typed client for etcd's v3 API on grpc.aio, and a way to run a local etcd."""

from cluster.etcd.client import EtcdClient
from cluster.etcd.endpoint import Tls
from cluster.etcd.errors import (
    Compacted,
    EtcdAuthFailed,
    EtcdClosed,
    EtcdError,
    EtcdOutcomeUnknown,
    EtcdPermissionDenied,
    EtcdRejected,
    EtcdServerFailed,
    EtcdUnavailable,
    HistoryLost,
    LeaseNotFound,
    RevisionGone,
    WatchBroken,
)
from cluster.etcd.kv import Compare, DeleteResult, KeyValue, Op, PutResult, RangeResult, Relation, Result, TxnResult
from cluster.etcd.lease import KeepAlive, Lease, LeaseStatus
from cluster.etcd.server import EtcdServer, find_etcd
from cluster.etcd.watch import Event, EventKind, Watch, WatchBatch

__all__ = [
    "Compacted",
    "Compare",
    "DeleteResult",
    "EtcdAuthFailed",
    "EtcdClient",
    "EtcdClosed",
    "EtcdError",
    "EtcdOutcomeUnknown",
    "EtcdPermissionDenied",
    "EtcdRejected",
    "EtcdServer",
    "EtcdServerFailed",
    "EtcdUnavailable",
    "Event",
    "EventKind",
    "HistoryLost",
    "KeepAlive",
    "KeyValue",
    "Lease",
    "LeaseNotFound",
    "LeaseStatus",
    "Op",
    "PutResult",
    "RangeResult",
    "Relation",
    "Result",
    "RevisionGone",
    "Tls",
    "TxnResult",
    "Watch",
    "WatchBatch",
    "WatchBroken",
    "find_etcd",
]
