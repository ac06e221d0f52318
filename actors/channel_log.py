"""A channel as its owner sees it: where it ends, and the readers of its live tail."""

import asyncio
from collections import deque
from collections.abc import Sequence

from actors import records
from actors.ports import Store
from actors.records import ChannelHead, ChannelItem

TAIL = 256  # entries that are kept in memory while somebody reads
_AT_ONCE = 256  # entries that are read from the store in one go


class ChannelLog:
    """Gives out offsets, and joins what is stored with what has just been committed at one mark, ``end``."""

    __slots__ = ("_changed", "_ended", "_readers", "_tail", "end", "erased", "first", "name", "next", "size")

    def __init__(self, name: str, head: ChannelHead) -> None:
        self.name = name
        self.first = head.first
        self.next = head.next
        """The offset of the next entry."""
        self.size = head.size
        self.end = head.next
        """The entries below this are durable, and readers may see them."""
        self.erased = False
        self._tail: deque[tuple[int, ChannelItem]] | None = None
        self._readers = 0
        self._ended = False
        self._changed: asyncio.Event | None = None

    def append(self, put: dict[bytes, bytes], items: Sequence[ChannelItem], at: float) -> list[ChannelItem]:
        """Add entries to a commit; return them as they are stored."""
        prefix, offset, size = records.item_prefix(self.name), self.next, self.size
        stored = []
        for item in items:
            size += len(item.data)
            entry = ChannelItem(item.kind, item.data, at, item.turn, size)
            put[prefix + offset.to_bytes(8, "big")] = records.encode(entry)
            stored.append(entry)
            offset += 1
        self.next, self.size = offset, size
        put[records.CHANNEL + self.name.encode()] = records.encode(ChannelHead(offset, self.first, size))
        return stored

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

    def erase(self) -> None:
        """The channel was deleted: its readers have come to the end."""
        self.erased = True
        self._wake()

    def end_readers(self) -> None:
        """The activation goes: readers look for the next one, and resume there."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def join(self) -> None:
        """One more reads."""
        self._readers += 1

    def leave(self) -> None:
        """One reads no more."""
        self._readers -= 1
        if not self._readers:
            self._tail = None

    async def wait(self, offset: int) -> bool:
        """Wait for an entry at ``offset``; False when there will be none from this activation."""
        while offset >= self.end:
            if self.erased or self._ended:
                return False
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()
        return not self._ended or self.erased

    async def read(self, store: Store, address: str, offset: int) -> list[tuple[int, ChannelItem]]:
        """Some durable entries from ``offset`` on, in order: from memory if they are there, else from the store."""
        if self._tail and offset >= self._tail[0][0]:
            return [entry for entry in self._tail if entry[0] >= offset]
        return await read_items(store, address, self.name, offset, self.end)


async def read_items(
    store: Store, address: str, channel: str, first: int, end: int, *, limit: int = _AT_ONCE
) -> list[tuple[int, ChannelItem]]:
    """The stored entries from offset ``first`` up to ``end``, ``limit`` of them at most."""
    rows = await store.read(address, records.item_key(channel, first), records.item_key(channel, end), limit=limit)
    return [(records.offset_of(key), records.channel_items.decode(value)) for key, value in rows]
