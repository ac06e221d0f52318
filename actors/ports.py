"""What the engine needs from outside: a directory, a transport, a store, a clock.

Everything that waits, fails or depends on the machine reaches the engine through one of these, so that a whole
cluster can run in one process on a virtual clock. Each port has one conformance suite under tests/conformance that
runs over every adapter.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from actors.envelope import Envelope


class Clock(Protocol):
    """Two kinds of time."""

    def now(self) -> float:
        """Seconds since an arbitrary point. Never jumps: monotonic, and counting on while the machine sleeps."""
        ...

    def time(self) -> float:
        """Seconds since 1970, UTC. May jump: only for what has to outlive this process (reminders, retention)."""
        ...


class Route(msgspec.Struct, frozen=True):
    """Who owns an address: the silo's id and the epoch of its activation."""

    silo: str
    epoch: int


class Directory(Protocol):
    """Membership and the address -> owner table, as one silo (or client) sees them."""

    @property
    def silo(self) -> str:
        """The own id, ``name.incarnation``. Another incarnation is another silo."""
        ...

    @property
    def deadline(self) -> float:
        """Until when, on the port's clock, this silo may act as a member. Past it nothing may leave or commit."""
        ...

    def types(self) -> Sequence[str]:
        """The actor types that live members host, sorted."""
        ...

    def place(self, address: str, but: Collection[str] = ()) -> str:
        """The silo on which a new activation of the address should live; none of those in ``but``.

        Raises ``UnknownActorType`` where no live member hosts the type, ``ClusterUnavailable`` without members that
        come into question.
        """
        ...

    def is_member(self, silo: str) -> bool:
        """Whether the silo is a live member, as far as this one knows."""
        ...

    def members(self, type_name: str = "") -> Sequence[str]:
        """The live members, sorted; of a type: those with the newest code that host it and are not draining."""
        ...

    def newer(self, type_name: str) -> Sequence[str]:
        """The live members that run newer code than this silo and take new activations of the type in its place."""
        ...

    async def changed(self) -> None:
        """Return at the next change of membership."""
        ...

    async def claim(self, address: str) -> Route:
        """Make this silo the owner, unless a live silo is; return the owner either way.

        On return the entry is durable. Never called by the engine while it has an activation of the address. Raises
        ``ClusterUnavailable`` where the directory cannot answer.
        """
        ...

    async def release(self, address: str, epoch: int) -> None:
        """Remove the own entry, if it still is the one of that epoch."""
        ...

    async def transfer(self, address: str, epoch: int, silo: str) -> int | None:
        """Make the live member ``silo`` the owner instead of this one, with nobody in between; return its epoch.

        None where the own entry is not the one of ``epoch`` any more, or ``silo`` no member. Raises
        ``ClusterUnavailable`` where the directory cannot answer: then it may have been done.
        """
        ...

    async def outrun(self, address: str, stored: int) -> int:
        """The store refused this silo's verified claim because it has seen the higher epoch ``stored``.

        Return a higher epoch if the claim is still this silo's (the directory lost its past), else raise ``Fenced``.
        """
        ...


class Fenced(Exception):
    """A write was refused by the store: a higher epoch has opened the address. ``stored`` is that epoch."""

    def __init__(self, address: str, *, epoch: int, stored: int) -> None:
        super().__init__(f"{address}: epoch {epoch} was refused, the store has seen epoch {stored}")
        self.address = address
        self.epoch = epoch
        self.stored = stored


class StoreUnavailable(Exception):
    """The store could not do it now (disk full, database away). Nothing of the refused operation took effect."""


COLD = b"\x80"
"""Records whose key is below this are *hot*: ``Store.open`` returns them. The others are read when they are needed."""

FLAGGED = b"\x05"
"""Records whose key begins with this can be listed over all addresses: what an operator has to look at."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """The effects of one turn, or of a part of it: all or none of them are applied.

    Applied in this order: ``erase``, ``cut``, ``drop``, then everything else. A record is a value (bytes, may be empty,
    up to 128 MiB) under a key (1 to 700 bytes) of the address.
    """

    address: str
    epoch: int
    state: bytes | None = None
    """The new state; None leaves the stored one as it is."""
    put: Mapping[bytes, bytes] = {}
    """Records to write, by key."""
    drop: Sequence[bytes] = ()
    """Keys of records to remove, there or not."""
    cut: Sequence[tuple[bytes, bytes]] = ()
    """Ranges of keys to remove: from the first of a pair, up to but not including the second."""
    erase: bool = False
    """Remove the state, all records and the wake-up time: everything of the address but its epoch."""
    wake: float | UnsetType | None = UNSET
    """When somebody must see to the address even if nobody calls (seconds since 1970, UTC); None: never."""
    asleep: bool = False
    """The activation goes: from now on its wake-up time is for any silo to see to, and not for its host."""


class Opened(msgspec.Struct, frozen=True):
    """What a store has of an address: its state and its hot records, in the order of their keys."""

    state: bytes | None = None
    records: dict[bytes, bytes] = {}


class Due(msgspec.Struct, frozen=True, order=True):
    """An address that somebody must see to since ``wake``."""

    wake: float
    address: str


class Store(Protocol):
    """Durable records of actors, fenced by epoch inside the store.

    Writing operations (open, commit) of one address are applied in the order of the calls, and their awaits return in
    that order. When an await returns, the effect is durable. Reading operations see everything whose await has returned
    before they were called, by whatever silo, and may see more. Cancelling an await does not undo or prevent the
    effect. All raise ``StoreUnavailable``; what was called for the same address before that await has returned is
    refused with it, so that nothing is ever applied on top of a gap.
    """

    @property
    def id(self) -> str:
        """The random id that the store got when it was created: two silos with one id share one store."""
        ...

    async def open(self, address: str, epoch: int, host: str = "") -> Opened:
        """Raise the address's epoch to ``epoch``, note its host, and return what is stored, in one step.

        The host of an epoch may open again, and anybody when its activation has gone (``asleep``). Raises ``Fenced`` if
        a higher epoch has opened the address, or another host with an equal one: a directory that lost its past can
        give an epoch twice, and the first to have it may not know yet that it is replaced.
        """
        ...

    async def commit(self, commit: Commit) -> None:
        """Apply the effects of one turn. Raises ``Fenced`` unless ``commit.epoch`` is the address's highest epoch."""
        ...

    async def read(
        self, address: str, first: bytes, last: bytes, *, limit: int, newest: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Committed records from key ``first`` up to but not including ``last``, at most ``limit`` of them, by key.

        ``newest``: the last ones of the range instead of the first, still in ascending order. Hot and cold ones alike;
        no epoch is needed.
        """
        ...

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        """Addresses whose wake-up time is at most ``before`` and whose host is none of ``hosts``, soonest first.

        An address without a host is everybody's. ``after``: only what is sorted behind that (wake, address).
        """
        ...

    async def flagged(self, *, after: tuple[str, bytes] = ("", b""), limit: int) -> list[tuple[str, bytes, bytes]]:
        """Flagged records of all addresses as (address, key, value), by address and key, from behind ``after``."""
        ...

    async def state(self, address: str) -> bytes | None:
        """The committed state; no epoch is needed."""
        ...

    async def raise_era(self, atleast: int) -> int:
        """Raise the store-wide era to ``atleast`` and return it (``atleast`` 0 reads it; a new store has era 0)."""
        ...

    async def close(self) -> None:
        """Finish what was begun and release everything. Later calls raise ``StoreUnavailable``."""
        ...


class Link(Protocol):
    """An ordered, two-way connection to another runtime."""

    @property
    def peer(self) -> str:
        """The silo id of the other side, or the id that a client gave itself."""
        ...

    @property
    def peer_is_silo(self) -> bool:
        """Whether the other side is a silo; else it is a client, for which this silo finds the way."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether the other side proved to belong to the cluster: only then may its pickles be loaded."""
        ...

    @property
    def version(self) -> int:
        """Of the protocol, the newest that both sides speak: what a later one has added must not be sent here."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the link is gone for good."""
        ...

    @property
    def departing(self) -> bool:
        """Whether the other side wants nothing new on this link; it still answers what it was sent."""
        ...

    def send(self, envelope: Envelope) -> None:
        """Queue an envelope; never blocks. What is queued together leaves together.

        Envelopes arrive in order, except that a large one lets envelopes of other requests and addresses pass while
        it travels in chunks. Requests are refused with ``MailboxFull`` while too many bytes wait for a slow peer.
        On a closed link this does nothing: ``LinkHandler.on_closed`` has told or will tell what was lost.
        """
        ...


class LinkHandler(Protocol):
    """The runtime's side of its links."""

    def on_envelopes(self, link: Link, envelopes: list[Envelope]) -> None:
        """Envelopes have arrived, in order. Must not block or raise."""
        ...

    def on_closed(self, link: Link, unsent: list[Envelope]) -> None:
        """The link is gone. ``unsent`` certainly did not reach the peer, in the order of sending; what was sent and
        not answered may have.
        """
        ...


class Transport(Protocol):
    """Links to other silos: at most one that is used for sending to each."""

    def link(self, silo: str) -> Link | None:
        """The open link to the silo, if there is one."""
        ...

    async def connect(self, silo: str) -> Link:
        """Open a link, or return the open one. Raises ``ConnectionError`` within its own time limit."""
        ...
