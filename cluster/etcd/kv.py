"""Keys and values: what reads return, and the conditions and operations that transactions are made of."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from cluster.etcd import etcd_pb2 as pb


class KeyValue(msgspec.Struct, frozen=True):
    """A key as of one revision.

    ``version`` counts its writes since it was created (1 is the first); ``lease`` is the id of the lease that it
    hangs on, 0 without. In the event of a deletion only ``key`` and ``mod_revision`` (of the deletion) are set.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class RangeResult(msgspec.Struct, frozen=True):
    """The keys of a read, sorted, as they all were at ``revision``. Watching from ``revision`` + 1 misses nothing."""

    revision: int
    kvs: list[KeyValue]


class PutResult(msgspec.Struct, frozen=True):
    """A put within a transaction. ``revision`` is that of the transaction."""

    revision: int


class DeleteResult(msgspec.Struct, frozen=True):
    """A delete within a transaction. ``deleted`` is the number of keys that existed."""

    revision: int
    deleted: int


class TxnResult(msgspec.Struct, frozen=True):
    """Whether all comparisons held, and a result for each operation of the branch that ran, in order."""

    succeeded: bool
    revision: int
    responses: "list[Result]"


Result: TypeAlias = RangeResult | PutResult | DeleteResult | TxnResult

Relation: TypeAlias = Literal["==", "!=", "<", ">"]

_RELATIONS: dict[Relation, "pb.Compare.CompareResult.ValueType"] = {
    "==": pb.Compare.EQUAL,
    "!=": pb.Compare.NOT_EQUAL,
    "<": pb.Compare.LESS,
    ">": pb.Compare.GREATER,
}


class Compare:
    """A condition on one key. An absent key has version, revisions and lease 0; no comparison of its value holds.

    >>> conditions = [Compare.absent("/app/leader"), Compare.value("/app/mode", b"open")]
    """

    __slots__ = ("message",)

    def __init__(self, message: pb.Compare) -> None:
        self.message = message

    @classmethod
    def exists(cls, key: str) -> "Compare":
        return cls.create_revision(key, 0, relation=">")

    @classmethod
    def absent(cls, key: str) -> "Compare":
        return cls.create_revision(key, 0)

    @classmethod
    def create_revision(cls, key: str, revision: int, *, relation: Relation = "==") -> "Compare":
        """On the revision of the write that created the key."""
        return cls(
            pb.Compare(key=encode(key), target=pb.Compare.CREATE, result=_RELATIONS[relation], create_revision=revision)
        )

    @classmethod
    def mod_revision(cls, key: str, revision: int, *, relation: Relation = "==") -> "Compare":
        """On the revision of the key's last write."""
        return cls(
            pb.Compare(key=encode(key), target=pb.Compare.MOD, result=_RELATIONS[relation], mod_revision=revision)
        )

    @classmethod
    def version(cls, key: str, version: int, *, relation: Relation = "==") -> "Compare":
        """On the number of writes since the key was created."""
        return cls(pb.Compare(key=encode(key), target=pb.Compare.VERSION, result=_RELATIONS[relation], version=version))

    @classmethod
    def value(cls, key: str, value: bytes, *, relation: Relation = "==") -> "Compare":
        """On the value, byte by byte. Never holds for an absent key."""
        return cls(pb.Compare(key=encode(key), target=pb.Compare.VALUE, result=_RELATIONS[relation], value=value))

    @classmethod
    def lease(cls, key: str, lease: int, *, relation: Relation = "==") -> "Compare":
        """On the id of the lease that the key hangs on, 0 for none."""
        return cls(pb.Compare(key=encode(key), target=pb.Compare.LEASE, result=_RELATIONS[relation], lease=lease))


class Op:
    """One operation of a transaction.

    >>> operations = [Op.put("/app/leader", b"a", lease=0), Op.get("/app/", prefix=True)]
    """

    __slots__ = ("message",)

    def __init__(self, message: pb.RequestOp) -> None:
        self.message = message

    @classmethod
    def get(cls, key: str, *, prefix: bool = False) -> "Op":
        """Read a key, or all keys that begin with it. Unlike ``EtcdClient.get`` this is never paged."""
        return cls(
            pb.RequestOp(
                request_range=pb.RangeRequest(key=start_of(key, prefix=prefix), range_end=end_of(key, prefix=prefix))
            )
        )

    @classmethod
    def put(cls, key: str, value: bytes, *, lease: int = 0) -> "Op":
        """Write a key. ``lease`` 0 detaches it from the lease that it had."""
        return cls(pb.RequestOp(request_put=pb.PutRequest(key=encode(key), value=value, lease=lease)))

    @classmethod
    def delete(cls, key: str, *, prefix: bool = False) -> "Op":
        """Delete a key, or all keys that begin with it."""
        request = pb.DeleteRangeRequest(key=start_of(key, prefix=prefix), range_end=end_of(key, prefix=prefix))
        return cls(pb.RequestOp(request_delete_range=request))

    @classmethod
    def txn(cls, compare: Sequence[Compare], then: "Sequence[Op]", orelse: "Sequence[Op]" = ()) -> "Op":
        """A transaction within the transaction, with its own conditions; it fails alone.

        etcd evaluates the conditions of all levels before it applies anything: none sees a write of this transaction.
        It refuses a key that is put twice, or put and deleted. The operations of one level plus those of a level below
        it may be 128 at most (etcd's ``--max-txn-ops``).
        """
        return cls(pb.RequestOp(request_txn=txn_request(compare, then, orelse)))


def txn_request(compare: Sequence[Compare], then: Sequence[Op], orelse: Sequence[Op]) -> pb.TxnRequest:
    return pb.TxnRequest(
        compare=[condition.message for condition in compare],
        success=[op.message for op in then],
        failure=[op.message for op in orelse],
    )


def encode(key: str) -> bytes:
    """A key as etcd stores it. ``decode`` reverses it, also for keys of others that are not UTF-8."""
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def start_of(key: str, *, prefix: bool = False) -> bytes:
    """Where a range begins. etcd knows no empty key: the prefix "" means every key."""
    encoded = encode(key)
    if not encoded and not prefix:
        raise ValueError("an etcd key must not be empty (prefix=True reads all keys)")
    return encoded or b"\0"


def end_of(key: str, *, prefix: bool = False) -> bytes:
    """Where a range ends: b"" for a single key, else the first key after all that begin with ``key``."""
    if not prefix:
        return b""
    stem = encode(key).rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def key_value(message: pb.KeyValue) -> KeyValue:
    return KeyValue(
        decode(message.key),
        message.value,
        message.create_revision,
        message.mod_revision,
        message.version,
        message.lease,
    )


def txn_result(message: pb.TxnResponse, *, revision: int = 0) -> TxnResult:
    """Convert an answer. ``revision`` is that of the enclosing transaction: etcd leaves it out of the nested ones."""
    revision = message.header.revision or revision
    return TxnResult(message.succeeded, revision, [_result(response, revision) for response in message.responses])


def _result(message: pb.ResponseOp, revision: int) -> Result:
    match message.WhichOneof("response"):
        case "response_range":
            kvs = [key_value(kv) for kv in message.response_range.kvs]
            return RangeResult(revision, kvs)
        case "response_put":
            return PutResult(revision)
        case "response_delete_range":
            return DeleteResult(revision, message.response_delete_range.deleted)
        case "response_txn":
            return txn_result(message.response_txn, revision=revision)
        case kind:
            raise ValueError(f"etcd answered an operation with {kind!r}, which this client did not ask for")
