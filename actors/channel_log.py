"""A channel as its owner sees it: where it ends, and the readers of its live tail."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from actors import records
from actors.errors import ChannelClosed, OffsetGone
from actors.ports import Store
from actors.producers import Producers
from actors.records import ChannelHead, ChannelItem

if TYPE_CHECKING:
    from actors.retention import Retention
    from actors.turn import Turn

Cut: TypeAlias = tuple[bytes, bytes]
"""A range of keys that a commit removes."""

TAIL = 256  # entries that are kept in memory while somebody reads
_AT_ONCE = 256  # entries that are read from the store in one go


class ChannelLog:
    """Gives out offsets, and joins what is stored with what has just been committed at one mark, ``end``."""

    __slots__ = (
        "_ended", "_readers", "_tail", "_waiting", "begin", "closed", "closing", "doomed", "end", "erased",
        "first", "keep", "name", "next", "oldest", "producers", "size", "trimmed_at",
    )  # fmt: skip

    def __init__(self, name: str, head: ChannelHead, keep: "Retention") -> None:
        self.name = name
        self.keep = keep
        self.first = head.first
        """The first offset that is retained, or will be with the commits under way."""
        self.next = head.next
        """The offset of the next entry."""
        self.size = head.size
        self.oldest = head.oldest
        self.begin = head.first
        """What was below this is gone for good."""
        self.end = head.next
        """The entries below this are durable, and readers may see them."""
        self.closed = head.closed
        """Whether its last entry closes it, or will with the commits under way."""
        self.closing = 0
        """How many wait for running turns to end, to close it then."""
        self.producers = Producers(name)
        self.trimmed_at = head.size
        """The size of the channel when it was last looked at for what is too much."""
        self.doomed = False
        """Whether a commit under way erases it."""
        self.erased = False
        self._tail: deque[tuple[int, ChannelItem]] | None = None
        self._readers = 0
        self._ended = False
        self._waiting: dict[asyncio.Future[None], None] | None = None

    def append(
        self, put: dict[bytes, bytes], cut: list[Cut], items: Sequence[ChannelItem], at: float
    ) -> list[ChannelItem]:
        """Add entries to a commit, and let go what is then too many; return them as they are stored."""
        prefix, offset, size = records.item_prefix(self.name), self.next, self.size
        if self.first == offset:
            self.oldest = at
        stored = []
        for item in items:
            size += len(item.data)
            entry = ChannelItem(item.kind, item.data, at, item.turn, size, item.begins)
            put[prefix + offset.to_bytes(8, "big")] = records.encode(entry)
            stored.append(entry)
            offset += 1
            self.closed = item.kind == "closed"
        self.next, self.size = offset, size
        limit = self.keep.items
        self.trim(put, cut, self.first if limit is None else offset - limit)
        return stored

    def trim(self, put: dict[bytes, bytes], cut: list[Cut], first: int) -> None:
        """Add to a commit where the channel ends, and begins: what is before ``first`` goes."""
        if first > self.first:
            prefix = records.item_prefix(self.name)
            cut.append((prefix + self.first.to_bytes(8, "big"), prefix + first.to_bytes(8, "big")))
            for offset in range(max(self.first, self.end), first):  # what this very commit, or one under way, brings
                put.pop(prefix + offset.to_bytes(8, "big"), None)
            self.first = first
        head = ChannelHead(self.next, self.first, self.size, self.closed, self.oldest)
        put[records.CHANNEL + self.name.encode()] = records.encode(head)

    def trimmed(self, first: int) -> None:
        """What was before ``first`` is gone."""
        self.begin = max(self.begin, first)

    def committed(self, first: int, items: list[ChannelItem]) -> None:
        """The entries from offset ``first`` on are durable: show them to the readers."""
        if self._readers and first == self.end:
            if self._tail is None:
                self._tail = deque(maxlen=TAIL)
            self._tail.extend(enumerate(items, first))
        else:
            self._tail = None  # there is a gap, or nobody looks: the store has it all
        self.end = max(self.end, first + len(items))
        self._wake()

    # -- its end ----------------------------------------------------------------------------------------------------

    def check_open(self, address: str, turn: "Turn | None" = None, *, closing: bool = False) -> None:
        """Raise ``ChannelClosed`` if nothing can be published any more.

        While somebody waits to close it, turns that have published already may go on, and so may who is ``closing``.
        """
        if self.closed or (self.closing and not closing and (turn is None or self not in turn.holds)):
            raise self.is_closed(address)

    def end_closing(self, _: object) -> None:
        """One who has waited to close it is done, well or badly."""
        self.closing -= 1

    def is_closed(self, address: str) -> ChannelClosed:
        """The error of who publishes to a closed channel."""
        return ChannelClosed(f"{address}/{self.name} is closed: nothing can be published there any more")

    @property
    def over(self) -> bool:
        """Whether it is closed, durably."""
        return self.closed and self.end == self.next

    def erase(self) -> None:
        """The channel was deleted: its readers have come to the end."""
        self.erased = True
        self._wake()

    def end_readers(self) -> None:
        """The activation goes: readers look for the next one, and resume there."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiting or ():
            if not waiter.done():
                waiter.set_result(None)

    @property
    def is_read(self) -> bool:
        """Whether somebody reads its tail."""
        return self._readers > 0

    def join(self) -> None:
        """One more reads."""
        self._readers += 1

    def leave(self) -> None:
        """One reads no more."""
        self._readers -= 1
        if not self._readers:
            self._tail = None

    def lacks(self, offset: int) -> bool:
        """Whether there is no entry at the offset yet, and one may come."""
        return offset >= self.end and not (self.erased or self._ended or self.over)

    def may_give(self, offset: int) -> bool:
        """Whether a reader gets what is at the offset from this activation."""
        return offset < self.end and (self.erased or not self._ended)

    async def change(self) -> None:
        """Wait for more entries, or for the end."""
        if self._waiting is None:
            self._waiting = {}
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    async def read(self, store: Store, address: str, offset: int) -> list[tuple[int, ChannelItem]]:
        """Some durable entries from ``offset`` on, in order: from memory if they are there, else from the store.

        None are left if the channel was deleted, or the activation goes. Raises ``OffsetGone`` where they are retained
        no more.
        """
        if self._tail and offset >= self._tail[0][0]:
            return [entry for entry in self._tail if entry[0] >= offset]
        found = await read_items(store, address, self.name, offset, self.end) if offset >= self.begin else []
        if found and found[0][0] == offset:
            return found
        while self.doomed and not (self.erased or self._ended):
            await self.change()
        if self.erased or self._ended:
            return []
        first = self.begin if offset < self.begin else found[0][0] if found else self.first
        raise self.gone(address, offset, first)

    def gone(self, address: str, offset: int, first: int) -> OffsetGone:
        """The error of who reads from an offset that is not retained any more."""
        return OffsetGone(
            f"{address}/{self.name}: what was at offset {offset} is not retained any more; the first entry that is has "
            f"offset {first}. Read from there on",
            first=first,
        )


async def read_items(
    store: Store,
    address: str,
    channel: str,
    first: int,
    end: int,
    *,
    limit: int = _AT_ONCE,
    most: int | None = None,
) -> list[tuple[int, ChannelItem]]:
    """The stored entries from offset ``first`` up to ``end``, ``limit`` of them at most.

    ``most``: no more than have so many bytes together, unless the first alone has more.
    """
    if most is not None:
        limit = await _fitting(store, address, channel, first, min(limit, end - first), most)
    rows = await store.read(address, records.item_key(channel, first), records.item_key(channel, end), limit=limit)
    return [(records.offset_of(key), records.channel_items.decode(value)) for key, value in rows]


async def _fitting(store: Store, address: str, channel: str, first: int, count: int, most: int) -> int:
    """How many of ``count`` entries have ``most`` bytes at most; found out without holding more than one of them."""
    before: int | None = None
    while count > 1:
        if before is None:
            found = await read_items(store, address, channel, first, first + 1, limit=1)
            if not found:
                return 1
            before = found[0][1].end - len(found[0][1].data)
        found = await read_items(store, address, channel, first + count - 1, first + count, limit=1)
        if found and found[0][1].end - before <= most:
            return count
        count //= 2
    return 1
