"""The rows that the engine keeps in a store beside an actor's state: their keys, and what their values say.

A row's key is the kind of the row and what tells it from the others of that kind. Everything that has to be in order is
told apart by a *number*: the epoch and a count, so that numbers rise for as long as the address exists and no counter
has to be stored. Hot rows (see ``actors.ports.COLD``) are there when an activation begins.
"""

from typing import Final, TypeAlias

import msgspec

from actors.envelope import Failure, Request
from actors.ports import FLAGGED

MESSAGE: Final = b"\x01"  # + number: Pending or Done
JOURNAL: Final = b"\x02"  # + the message's number + path of the step: a JournalRow
OUTBOX: Final = b"\x03"  # + number: a Request on its way to another actor
REMINDER: Final = b"\x04"  # + name: Reminder
PARKED: Final = FLAGGED  # + the message's number: Parked
CHANNEL: Final = b"\x06"  # + name: ChannelHead
FLOOR: Final = b"\x07"  # the offset at which new channels begin, if something was deleted here

INTERRUPT: Final = b"\x09"  # + message id: Interrupt
DELTA: Final = b"\x08"  # + count: a change of the state, on top of the stored one

RUN: Final = b"\x0a"  # + the message's number: Run
SIGNAL: Final = b"\x0b"  # + name + NUL + number: Signal

WRITTEN_BY: Final = b"\x0c"  # WrittenBy

ITEM: Final = b"\x81"  # + channel name + NUL + offset: ChannelItem
KEYED: Final = b"\x82"  # + idempotency key: Keyed
PAIR: Final = b"\x83"  # + address of a sender: the number of its last message that was accepted
BESIDE: Final = b"\x84"  # + key of a hot row: the large value of that row
EXPIRY: Final = b"\x85"  # + when (8 bytes, ms) + idempotency key: empty

PRODUCER: Final = b"\x86"  # + channel name + NUL + name of an idempotent producer: Producer

LARGE: Final = 16 * 1024  # what is larger is stored beside its row, and read only when it is needed


class Pending(msgspec.Struct, array_like=True, tag=1):
    """A message that was accepted and is not settled."""

    request: Request
    adoptions: int = 0
    """How often it was started again after the silo that ran it was lost."""
    into: str = ""
    """Id of the message whose turn it was handed to when it came."""


class Done(msgspec.Struct, array_like=True, tag=2):
    """A settled message that its sender may send again, and the answer that it gets then."""

    message_id: str
    expires: float
    answer: bytes = b""
    """The encoded ``Reply`` or ``Failure``; empty: there is none, or it is stored beside."""


MessageRow: TypeAlias = Pending | Done


class Parked(msgspec.Struct, array_like=True):
    """A message that is not run any more until an operator says so. Its journal is kept."""

    request: Request
    reason: str
    since: float


class Interrupt(msgspec.Struct, array_like=True):
    """Somebody stops the message, which may run again elsewhere before it has heard of that."""

    reason: str
    at: float
    rollback: bool = False
    """Whether nothing of its turn is to stay."""
    later: list[str] = []
    """The reasons of the interrupts that came after this one, while the turn went on."""


class Run(msgspec.Struct, array_like=True):
    """A turn that was told of in the channel of turns: when it began, and where the channels ended then."""

    at: float
    channels: dict[str, int]


class Started(msgspec.Struct, array_like=True, tag=1):
    """The body of a ``once=True`` step, or of a stream, was started."""

    function: str
    elapsed: float = 0.0
    """Seconds from the start of the turn to the call of the step."""
    heard: int = 0
    """How many interrupts the turn had heard of by then; also below."""


class Finished(msgspec.Struct, array_like=True, tag=2):
    """A step's result; None: it is stored beside."""

    function: str
    elapsed: float
    value: bytes | None
    heard: int = 0


class Raised(msgspec.Struct, array_like=True, tag=3):
    """What a step's body raised."""

    function: str
    elapsed: float
    failure: Failure
    heard: int = 0


class Deltas(msgspec.Struct, array_like=True, tag=4):
    """Some deltas of a stream; the first was published at ``offset`` of the stream's channel, if it has one."""

    deltas: list[bytes]
    offset: int = -1
    heard: int = 0


class Waiting(msgspec.Struct, array_like=True, tag=6):
    """The turn waits for a signal, and does so until ``deadline`` (seconds since 1970, or infinity)."""

    function: str
    elapsed: float
    deadline: float
    heard: int = 0


class Read(msgspec.Struct, array_like=True, tag=5):
    """The turn has read a message that came while it ran."""

    message_id: str


Recorded: TypeAlias = Started | Finished | Raised | Waiting
"""How far a step has come."""
JournalRow: TypeAlias = Recorded | Deltas | Read


class Signal(msgspec.Struct, array_like=True):
    """A value that some turn waits for, or will."""

    value: bytes
    at: float


class WrittenBy(msgspec.Struct, array_like=True):
    """Whose commits these are."""

    version: str
    """Of the silo's code, as its operator gave it."""


class Reminder(msgspec.Struct, array_like=True):
    """A wake-up call, once or every so many seconds."""

    id: str
    due: float
    every: float = 0.0


class ChannelHead(msgspec.Struct, array_like=True):
    """Where a channel ends, and where what is retained of it begins."""

    next: int
    first: int = 0
    size: int = 0
    """Bytes of all entries that there ever were, as their ``end`` counts them."""
    closed: bool = False
    """Whether the last entry is the one that closed it."""
    oldest: float = 0.0
    """A time that no entry which is retained is older than."""


class ChannelItem(msgspec.Struct, array_like=True):
    """One entry of a channel: an encoded value, or (``kind`` "reset") from which offset on readers discard."""

    kind: str
    data: bytes
    at: float = 0.0
    turn: str = ""
    """Id of the message whose turn published it; "" from outside of a turn of this actor."""
    end: int = 0
    """Bytes of all entries up to and including this one. 0: written before these were counted."""
    begins: bool = False
    """Whether it is the first of a stream: a "reset" may discard what follows from here on, and nowhere else."""


class Keyed(msgspec.Struct, array_like=True):
    """What came of the message with an idempotency key, and a digest of that message."""

    digest: bytes
    message_id: str
    answer: bytes
    expires: float


CLOSED: Final = b"\xc3"
"""The encoded value of the entry that closes a channel: True."""

channel_items: Final = msgspec.msgpack.Decoder(ChannelItem)
message_rows: Final = msgspec.msgpack.Decoder(MessageRow)
journal_rows: Final = msgspec.msgpack.Decoder(JournalRow)
encode: Final = msgspec.msgpack.Encoder().encode


def number(epoch: int, count: int) -> bytes:
    """The number that follows all of earlier epochs and all smaller counts of this one."""
    return epoch.to_bytes(8, "big") + count.to_bytes(8, "big")


def item_prefix(channel: str) -> bytes:
    """What the keys of a channel's entries begin with; the offset follows."""
    return ITEM + channel.encode() + b"\0"


def item_key(channel: str, offset: int) -> bytes:
    """The key of a channel's entry."""
    return item_prefix(channel) + offset.to_bytes(8, "big")


def offset_of(key: bytes) -> int:
    """The offset in the key of a channel's entry."""
    return int.from_bytes(key[-8:], "big")


def expiry_key(expires: float, key: str) -> bytes:
    """The key under which a purge finds that an idempotency key has expired."""
    return EXPIRY + int(expires * 1000).to_bytes(8, "big") + key.encode()
