"""Where all readers of this silo's gateway meet the channels that they follow.

A follower reads what is stored until it has caught up, and then joins the *feed* of its channel: one subscription to
the owner, however many follow. A follower that falls behind what the feed has in memory reads the store again.
"""

import asyncio
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import Final, Self

from actors.channel import Channel, Event
from actors.deadlines import Deadlines
from actors.errors import ClusterUnavailable, OffsetGone
from actors.runtime import Runtime
from cluster.gateway.feed import Entry, Feed
from cluster.gateway.history import History

LINGER: Final = 5.0
"""Seconds that a feed goes on without followers: who reconnects finds it as it was."""

_TOTAL: Final = 64 * 2**20
_LEAST: Final = 16 * 2**10
_MOST: Final = 256 * 2**10

_AT_ONCE: Final = 64  # stored entries that are read in one go


class Hub:
    """One subscription per channel and silo, many readers, bounded memory. ``runtime`` as for ``Gateway``."""

    def __init__(self, runtime: Callable[[], Runtime | None]) -> None:
        self._runtime = runtime
        self._feeds: dict[tuple[str, str], Feed] = {}
        self.closed = False

    def follow(self, channel: Channel, after: int | None, *, compact: bool = False) -> "Follower":
        """A reader of the events behind an offset (None: all that is retained), and then of those to come.

        ``compact``: what is there already comes in few pieces, see ``actors.compaction.Compactor``.
        """
        return Follower(self, channel, after, compact=compact)

    def close(self) -> None:
        """Let every reader go, with ``ClusterUnavailable``: the silo is about to leave."""
        self.closed = True
        for feed in self._feeds.values():
            feed.stop()

    @property
    def runtime(self) -> Runtime:
        """The engine. Raises ``ClusterUnavailable`` while the silo takes no messages."""
        runtime = self._runtime()
        if runtime is None or self.closed:
            raise _leaving()
        return runtime

    @cached_property
    def deadlines(self) -> "Deadlines[asyncio.Future[bool]]":
        """Until when followers wait: a timer for each of them would take more memory, and time, than the rest."""
        return Deadlines(asyncio.get_running_loop(), _expire)

    def join(self, follower: "Follower", channel: Channel, offset: int) -> Feed:
        """The feed of a channel, for a follower that has everything below the offset."""
        key = channel._ref.address, channel.name
        feed = self._feeds.get(key)
        if feed is None or feed.over:
            feed = self._feeds[key] = Feed(self.runtime, channel, offset, room=self._room)
        feed.followers.add(follower)
        return feed

    def part(self, follower: "Follower", feed: Feed) -> None:
        """The follower needs the feed no more."""
        feed.followers.discard(follower)
        if not feed.followers:
            asyncio.get_running_loop().call_later(LINGER, self._retire, feed)

    def _retire(self, feed: Feed) -> None:
        if not feed.followers:
            feed.stop()
            if self._feeds.get(feed.key) is feed:
                del self._feeds[feed.key]

    def _room(self) -> int:
        """The bytes of entries that each feed may keep in memory."""
        return max(_LEAST, min(_MOST, _TOTAL // max(len(self._feeds), 1)))


def _expire(waiter: "asyncio.Future[bool]") -> None:
    if not waiter.done():
        waiter.set_result(False)


def _leaving() -> ClusterUnavailable:
    return ClusterUnavailable("this silo is leaving, or not yet a member; read on through another one")


class Follower:
    """One reader of one channel. Use it as a context manager.

    Entering raises ``OffsetGone`` when ``after`` is no longer retained.
    """

    __slots__ = (
        "_channel", "_closed_at", "_compact", "_end", "_feed", "_first", "_fresh", "_history", "_hub", "_waiter",
        "ended", "reborn",
    )  # fmt: skip

    def __init__(self, hub: Hub, channel: Channel, after: int | None, *, compact: bool = False) -> None:
        self._hub = hub
        self._channel = channel
        self._history: History | None = None
        self._first = -1 if after is None else after + 1  # the offset that comes next
        self._end = 0  # below it everything is stored
        self._compact = compact  # what is stored comes merged, until it has caught up
        self._fresh = after is None  # nothing was passed on: it may begin wherever the channel does
        self._closed_at = -1  # the offset of the event that tells of a deletion, once that is known
        self._feed: Feed | None = None
        self.ended = False
        """Whether nothing more will come: what came last has closed the channel."""
        self.reborn = False
        """Whether it begins right behind the event that told of the actor's deletion."""
        self._waiter: asyncio.Future[bool] | None = None

    async def open(self) -> None:
        """Find out where the channel begins and ends. Entering does that, too. Raises ``OffsetGone``."""
        self._history = History(self._hub.runtime.store, self._channel._ref.address, self._channel.name)
        await self._look()

    async def __aenter__(self) -> Self:
        if self._history is None:
            await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._feed is not None:
            self._hub.part(self, self._feed)

    @property
    def position(self) -> int:
        """The offset of what comes next."""
        return self._first

    @property
    def end(self) -> int:
        """The offset behind the last entry that is known to be stored."""
        return self._end

    def wake(self) -> None:
        """Something has come, or has ended."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    async def next(self, timeout: float) -> list[Event]:
        """The events that have come, at least one, in order, none twice.

        Raises ``TimeoutError``; ``EOFError`` behind an event of kind "closed"; ``OffsetGone`` when it was so slow that
        what comes next is not retained any more; ``ClusterUnavailable`` when the silo leaves, or the actor cannot be
        reached for long.
        """
        return [entry.event for entry in await self.entries(timeout)]

    async def entries(self, timeout: float) -> list[Entry]:
        """As ``next``, with the forms of the events that all readers share."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            if self._hub.closed:
                raise _leaving()
            if self.ended:
                raise EOFError
            found = await self._found()
            if found:
                self._first = found[-1].event.offset + 1
                self._fresh = False
                self.ended = found[-1].event.kind == "closed"
                return found
            if self._feed is not None and not self._feed.has(self._first):
                left = until - loop.time()
                if left <= 0:
                    raise TimeoutError
                waiter = self._waiter = loop.create_future()
                slot = self._hub.deadlines.add(waiter, left)
                try:
                    if not await waiter:
                        raise TimeoutError
                finally:
                    self._hub.deadlines.discard(waiter, slot)
                    self._waiter = None

    async def _found(self) -> list[Entry]:
        """What can be passed on without waiting; nothing where something has to be looked at again."""
        if self._closed_at >= 0:
            return [Entry(Event(self._closed_at, None, "closed"))]
        feed = self._feed
        if feed is not None:
            found = feed.behind(self._first)
            if found is not None:
                if not found and feed.over:
                    self._give_up(feed)
                return found
            self._end = feed.end
        if self._first < self._end:
            return await self._stored()
        self._compact = False
        if feed is None:
            self._feed = self._hub.join(self, self._channel, self._first)
        return []

    def _give_up(self, feed: Feed) -> None:
        """The feed has ended for another reason than that the channel has."""
        self._hub.part(self, feed)
        self._feed = None
        if feed.failure is not None:
            raise feed.failure

    async def _stored(self) -> list[Entry]:
        assert self._history is not None
        if self._compact:
            return await self._merged(self._history)
        events = await self._history.read(self._first, self._end, limit=_AT_ONCE)
        found = [Entry(event) for number, event in enumerate(events, self._first) if event.offset == number]
        if not found:
            await self._look()  # it was deleted, or trimmed, meanwhile
            if self._closed_at < 0 and self._first < self._end and not self._fresh:
                raise ClusterUnavailable(f"{self._channel!r}: the store does not have the entry at {self._first}")
        return found

    async def _merged(self, history: History) -> list[Entry]:
        events = await history.merged(self._first, self._end, fresh=self._fresh)
        found = [Entry(event) for event in events]
        if not found:  # all that was there was superseded, or has gone: what there is now is told as it is
            self._compact = False
        return found

    async def _look(self) -> None:
        """Find out where the channel begins and ends."""
        assert self._history is not None
        head, floor = await self._history.head()
        if self._fresh:
            self._first = head.first
        elif self._first < floor:
            self._closed_at = floor - 1
        elif self._first < head.first:
            raise OffsetGone(
                f"{self._channel._ref.address}/{self._channel.name}: what followed offset {self._first - 1} is not "
                f"kept any more; the first that is kept is {head.first}",
                first=head.first,
            )
        self._end = head.next
        self.ended = head.closed and self._first >= head.next
        self.reborn = 0 < self._first == floor
