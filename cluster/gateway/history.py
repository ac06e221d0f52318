"""What the store has of a channel: read without waking its actor."""

from typing import Final, TypeVar

import msgspec

from actors.channel import Event
from actors.channel_log import read_items
from actors.compaction import Compactor
from actors.compaction import Entry as Piece
from actors.errors import ClusterUnavailable
from actors.ports import Store, StoreUnavailable
from actors.records import CHANNEL, FLOOR, ChannelHead, ChannelItem
from cluster.gateway.json_values import readable

T = TypeVar("T")

_AT_ONCE: Final = 256  # stored entries that are read in one go
_HELD: Final = 256 * 1024  # of a history that is merged, before it is passed on


class History:
    """The stored entries of one channel. Raises ``ClusterUnavailable`` while the store cannot be read."""

    __slots__ = ("_address", "_name", "_store")

    def __init__(self, store: Store, address: str, name: str) -> None:
        self._store = store
        self._address = address
        self._name = name

    async def head(self) -> tuple[ChannelHead, int]:
        """Where the channel begins and ends, and the floor: offsets below it are of what was deleted."""
        floor = await self._row(FLOOR, int) or 0
        head = await self._row(CHANNEL + self._name.encode(), ChannelHead)
        return head or ChannelHead(floor, floor), floor

    async def read(self, first: int, end: int, *, limit: int, most: int | None = None) -> list[Event]:
        """The entries from offset ``first`` up to ``end`` that are stored, ``limit`` of them at most.

        ``most``: about so many bytes of them, but one at least.
        """
        rows = await self._items(first, end, limit, most)
        return [Event(offset, readable(item.data), item.kind, item.turn) for offset, item in rows]

    async def merged(self, first: int, end: int, *, fresh: bool) -> list[Event]:
        """The same in few pieces, see ``Compactor``, up to some offset below ``end`` if they are much.

        ``fresh``: the reader has nothing of the channel yet.
        """
        compactor = Compactor(0 if fresh else first)
        while first < end and compactor.size < _HELD:
            rows = await self._items(first, end, _AT_ONCE, _HELD)
            if not rows or rows[0][0] != first:
                break  # deleted, or trimmed, meanwhile
            for offset, item in rows:
                compactor.add(Piece(offset, item.kind, readable(item.data), item.turn, item.begins))
            first = rows[-1][0] + 1
        return [Event(offset, data, kind, turn) for offset, kind, data, turn, _ in compactor.take()]

    async def _items(self, first: int, end: int, limit: int, most: int | None) -> list[tuple[int, ChannelItem]]:
        try:
            return await read_items(self._store, self._address, self._name, first, end, limit=limit, most=most)
        except StoreUnavailable as error:
            raise self._unreadable(error) from None

    async def _row(self, key: bytes, kind: type[T]) -> T | None:
        try:
            rows = await self._store.read(self._address, key, key + b"\0", limit=1)
        except StoreUnavailable as error:
            raise self._unreadable(error) from None
        return msgspec.msgpack.decode(rows[0][1], type=kind) if rows else None

    def _unreadable(self, error: Exception) -> ClusterUnavailable:
        return ClusterUnavailable(f"{self._address}/{self._name}: the store cannot be read now: {error}")
