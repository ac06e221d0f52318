"""What a free-standing stream knows of itself, and what it tells the gateways."""

from typing import Literal, TypeAlias

import msgspec

from actors.producers import Producer

LOG = "log"
"""The channel that holds a stream's appends."""

DATA, CLOSED, GONE = 0, 1, 2
"""What an entry says beside its bytes: more may follow; this was the last; the stream was deleted."""

Entry: TypeAlias = tuple[int, bytes, int]
"""Position, bytes, and one of the three above. An entry that closes may have no bytes, and then no own position."""


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A run of positions whose entries one actor has: from ``first`` up to the next segment's first.

    The entry at position ``first`` is at offset ``base`` of the actor's channel.
    """

    address: str
    first: int
    base: int


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """How a fork was asked for."""

    source: str
    """Address of the stream that it was made from."""
    offset: str | None = None
    sub_offset: int = 0


class Lifetime(msgspec.Struct, frozen=True, array_like=True):
    """How long a stream lives: for ``ttl`` seconds without a read or write, or until a time (RFC 3339 and seconds)."""

    ttl: int | None = None
    expires_at: str = ""
    expires: float = 0.0

    def __bool__(self) -> bool:
        return self.ttl is not None or bool(self.expires_at)


class StreamState(msgspec.Struct):
    """The state of the actor that is a stream. ``id`` is empty while there is none at its name."""

    id: str = ""
    path: str = ""
    content_type: str = ""
    lifetime: Lifetime = Lifetime()
    used: float = 0.0
    closed: bool = False
    closed_by: tuple[str, int, int] | None = None
    deleted: bool = False
    generation: int = 0
    born: int = 0
    """Offsets of a lower generation are of streams that had the name before."""
    next: int = 0
    """The position behind the last entry of a closed or deleted stream; of an open one the log says it."""
    segments: list[Segment] = []
    """The last one is the stream's own."""
    producers: dict[str, Producer] = {}
    """Those of stores that were written before producers had rows of their own."""
    seq: str | None = None
    fork: Fork | None = None
    forks: dict[str, str] = {}
    """Addresses of the streams that need what is here, by their ids."""
    watchers: dict[str, bool] = {}
    """Addresses of the subscriptions that hear of appends."""


class View(msgspec.Struct, frozen=True):
    """A stream as it was a moment ago: all that a reader needs to know."""

    id: str
    content_type: str
    lifetime: Lifetime
    closed: bool
    generation: int
    born: int
    next: int
    segments: list[Segment]


class Write(msgspec.Struct, frozen=True, array_like=True):
    """An append, a close, or both."""

    body: bytes
    content_type: str = ""
    close: bool = False
    seq: str | None = None
    producer: tuple[str, int, int] | None = None


class Creation(msgspec.Struct, frozen=True):
    """What a new stream shall be. An empty content type is that of the fork's source, or bytes."""

    path: str
    body: bytes = b""
    content_type: str = ""
    lifetime: Lifetime = Lifetime()
    close: bool = False
    fork: Fork | None = None


Code: TypeAlias = Literal[
    "ok",
    "created",
    "duplicate",
    "again",
    "missing",
    "gone",
    "closed",
    "conflict",
    "invalid",
    "fenced",
    "gap",
    "unreachable",
]


class Appended(msgspec.Struct, frozen=True, array_like=True):
    """What came of a write, and where the stream ends then; ``next`` is -1 where there is no stream."""

    code: Code
    generation: int = 0
    next: int = -1
    closed: bool = False
    detail: str = ""
    epoch: int | None = None
    seq: int | None = None
    """The last sequence number of the producer; for a "gap" the one that is expected."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of a request to a stream.

    "again": what was there had expired and is erased now; the request shall be sent once more.
    """

    code: Code
    view: View | None = None
    detail: str = ""
    position: int | None = None
    """Where a fork begins."""
