"""Idempotent producers: whether an append is new, a repeat, or out of turn (protocol, 5.2.1)."""

import hashlib
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from actors.ports import Store
from actors.records import PRODUCER, encode

_MOST_KNOWN: Final = 64
_PAGE: Final = 16
_LONGEST: Final = 256


class Producer(msgspec.Struct, array_like=True):
    """What an idempotent producer has written last, and when."""

    epoch: int
    seq: int
    at: float = 0.0


VerdictCode: TypeAlias = Literal["ok", "duplicate", "invalid", "fenced", "gap"]


class Verdict(NamedTuple):
    """What to do with a producer's append; epoch and sequence number are for its answer."""

    code: VerdictCode
    epoch: int
    seq: int
    detail: str = ""


def judge(known: Producer | None, epoch: int, seq: int) -> Verdict:
    """Compare an append with what its producer has written last."""
    if known is None:
        if seq:
            return Verdict("gap", epoch, 0, f"a new producer begins with sequence number 0, not {seq}")
        return Verdict("ok", epoch, 0)
    if epoch < known.epoch:
        return Verdict("fenced", known.epoch, known.seq, f"the producer has begun epoch {known.epoch}")
    if epoch > known.epoch:
        if seq:
            return Verdict("invalid", known.epoch, known.seq, f"a new epoch begins with sequence number 0, not {seq}")
        return Verdict("ok", epoch, 0)
    if seq <= known.seq:
        return Verdict("duplicate", known.epoch, known.seq)
    if seq > known.seq + 1:
        return Verdict("gap", known.epoch, known.seq + 1, f"sequence number {known.seq + 1} is expected, not {seq}")
    return Verdict("ok", epoch, seq)


class Producers:
    """The producers of one channel, stored in a row each, for as long as they write now and then."""

    __slots__ = ("_known", "_looking", "_prefix", "_seen_to", "_silent")

    def __init__(self, channel: str) -> None:
        self._prefix = PRODUCER + channel.encode() + b"\0"
        self._known: dict[str, Producer] = {}  # also what is on its way to the store
        self._seen_to = self._prefix
        self._looking = 0
        self._silent: list[bytes] = []

    def knows(self, name: str) -> bool:
        """Whether ``judge`` can tell of a producer without ``look_up``."""
        return name in self._known

    async def look_up(self, store: Store, address: str, name: str, before: float) -> None:
        """Learn what the store knows of a producer; of a new one, also whether others were silent since ``before``."""
        if name in self._known:
            return
        key = self._key(name)
        self._looking += 1  # what is written meanwhile must not be forgotten for what is read here
        try:
            rows = await store.read(address, key, key + b"\0", limit=1)
        finally:
            self._looking -= 1
        if rows:
            self._known.setdefault(name, msgspec.msgpack.decode(rows[0][1], type=Producer))
        if name in self._known:
            return
        self._known = {other: producer for other, producer in self._known.items() if producer.at >= before}
        rows = await store.read(address, self._seen_to, self._prefix[:-1] + b"\1", limit=_PAGE)
        self._seen_to = rows[-1][0] + b"\0" if len(rows) == _PAGE else self._prefix
        self._silent = [key for key, value in rows if msgspec.msgpack.decode(value, type=Producer).at < before]

    def judge(self, name: str, epoch: int, seq: int, before: float, *, otherwise: Producer | None = None) -> Verdict:
        """Whether to append. A producer that was silent since ``before`` is a new one; ``otherwise``: without a row."""
        known = self._known.get(name)
        if known is None and otherwise is not None:
            return judge(otherwise, epoch, seq)
        return judge(known if known is not None and known.at >= before else None, epoch, seq)

    def write(self, name: str, producer: Producer, put: dict[bytes, bytes], drop: list[bytes]) -> None:
        """Add to a commit what a producer has written, and forget those that were silent for long."""
        self._known[name] = producer
        put[self._key(name)] = encode(producer)
        known = {self._key(other) for other in self._known}
        drop += [key for key in self._silent if key not in known]
        self._silent = []

    def _key(self, name: str) -> bytes:
        """Of its row; a name that is too long for a key is hashed, and then begins as no text does."""
        text = name.encode()
        return self._prefix + (text if len(text) <= _LONGEST else b"\xff" + hashlib.sha256(text).digest())

    def settled(self) -> None:
        """All that was written is stored: few need be known by heart."""
        if len(self._known) > _MOST_KNOWN:
            self._known = {}

    def written(self, name: str, producer: Producer) -> None:
        """That is stored."""
        if len(self._known) > _MOST_KNOWN and not self._looking and self._known.get(name) is producer:
            del self._known[name]
