"""Reading the entries of a stream: what is stored straight from the store, what comes from its actor."""

from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from actors import Event, actor_ref
from actors.channel_log import read_items
from actors.ports import Store
from cluster.gateway.feed import Entry as News
from cluster.gateway.hub import Follower, Hub
from cluster.gateway.streams.stream_state import LOG, Entry, Segment, View

_AT_ONCE = 64

_entries = msgspec.msgpack.Decoder(Entry)


async def read_entries(
    store: Store, segments: Sequence[Segment], first: int, end: int, *, limit: int | None = None
) -> list[bytes]:
    """The bytes at the positions from ``first`` up to ``end``; no more when they have ``limit`` bytes or above.

    Neither wakes the actor nor asks it anything. What has been erased meanwhile is missing at the end.
    """
    found: list[bytes] = []
    size = 0
    for number, segment in enumerate(segments):
        last = min(end, segments[number + 1].first if number + 1 < len(segments) else end)
        while first < last:
            begin = segment.base + first - segment.first
            at_once = min(last - first, _AT_ONCE)
            rows = await read_items(store, segment.address, LOG, begin, begin + at_once, limit=at_once)
            for offset, item in rows:
                position, data, _ = _entries.decode(item.data)
                if offset != begin or position != first:
                    return found
                found.append(data)
                size += len(data)
                first += 1
                begin += 1
                if limit is not None and size >= limit:
                    return found
            if not rows:
                return found
    return found


class Tail:
    """The entries that a channel gets from an offset on. Use it as a context manager."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def __aenter__(self) -> Self:
        await self._follower.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._follower.__aexit__(kind, error, trace)

    def entry(self, event: Event) -> Entry | None:
        """The entry that an event of the channel tells of; None for one that tells of none."""
        return tuple(event.data) if event.kind == "item" else None

    def news(self, timeout: float) -> Coroutine[Any, Any, list[News]]:
        """What has come, for ``told``; no coroutine of its own, as there is one for each idle reader.

        Raises ``TimeoutError``; ``EOFError`` when the stream is gone; ``ClusterUnavailable`` when the silo leaves.
        """
        return self._follower.entries(timeout)

    def told(self, came: Sequence[News]) -> list[Entry]:
        """The entries that are told of; none if that was something else."""
        return [entry for one in came if (entry := self.entry(one.event)) is not None]


class Source(Protocol):
    """Where the entries of a stream come from."""

    async def read(self, view: View, first: int, *, limit: int) -> list[bytes]:
        """The entries from a position on, about ``limit`` bytes of them."""
        ...

    def tail(self, view: View, hub: Hub) -> Tail:
        """The entries behind those that the view has."""
        ...


class StreamSource:
    """Free-standing streams: their entries, and those that forks share with others."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, view: View, first: int, *, limit: int) -> list[bytes]:
        """See ``Source``."""
        return await read_entries(self._store, view.segments, first, view.next, limit=limit)

    def tail(self, view: View, hub: Hub) -> Tail:
        """See ``Source``."""
        own = view.segments[-1]
        return Tail(hub.follow(actor_ref(own.address).channel(LOG), own.base + view.next - own.first - 1))
