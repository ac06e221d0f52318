"""The live tail of one channel, read once for all who follow it on this silo."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from actors.builtin import SUBSCRIBE
from actors.channel import Channel, Event
from actors.errors import ActorError, ConnectionLost, Timeout
from actors.runtime import Runtime
from cluster.gateway.json_values import UNREADABLE, readable, to_json

if TYPE_CHECKING:
    from cluster.gateway.hub import Follower

log = logging.getLogger("cluster.gateway")

_PAUSE: Final = 0.02
_entries = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw, str])


class Entry:
    """An event, with the forms in which readers get it: each is made once, however many they are."""

    __slots__ = ("_frame", "_json", "_sse", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._frame: str | None = None
        self._json: bytes | None = None
        self._sse: bytes | None = None

    @property
    def json(self) -> bytes:
        """Its data as JSON."""
        if self._json is None:
            try:
                self._json = to_json(self.event.data)
            except ValueError:
                self._json = to_json(UNREADABLE)
        return self._json

    @property
    def sse(self) -> bytes:
        """The server-sent event: items have the default type, so that ``onmessage`` gets them."""
        if self._sse is None:
            kind = b"" if self.event.kind == "item" else b"event: %s\n" % self.event.kind.encode()
            self._sse = b"id: %d\n%sdata: %s\n\n" % (self.event.offset, kind, self.json)
        return self._sse

    @property
    def frame(self) -> str:
        """The members that all frames of WebSockets that tell of it have in common, and the closing brace."""
        if self._frame is None:
            event = self.event
            turn = f'"turn":{to_json(event.turn).decode()},' if event.turn else ""
            self._frame = f'"offset":{event.offset},"kind":"{event.kind}",{turn}"data":{self.json.decode()}}}'
        return self._frame


class Feed:
    """Holds the newest entries, as many as ``room()`` bytes allow, and tells its followers when more have come."""

    def __init__(self, runtime: Runtime, channel: Channel, offset: int, *, room: Callable[[], int]) -> None:
        self.key = channel._ref.address, channel.name
        self.end = offset
        """The offset behind the last entry that has come."""
        self.followers: set[Follower] = set()
        self.over = False
        """Whether nothing more will come."""
        self.failure: Exception | None = None
        self._runtime = runtime
        self._channel = channel
        self._room = room
        self._entries: list[tuple[Entry, int]] = []
        self._size = 0
        self._task = asyncio.create_task(self._read())

    def has(self, offset: int) -> bool:
        """Whether something at the offset or behind it has come, or nothing ever will."""
        return self.end > offset or self.over

    def behind(self, first: int) -> list[Entry] | None:
        """The entries from an offset on; None if the first of them is not in memory any more."""
        missing = self.end - first
        if missing <= 0:
            return []
        if missing > len(self._entries):
            return None
        return [entry for entry, _ in self._entries[-missing:]]

    def stop(self) -> None:
        """Read no more."""
        self.over = True
        self._task.cancel()

    async def _read(self) -> None:
        try:
            while not self.over:
                arguments = self._channel.name, self.end - 1
                payloads = self._runtime.outbound.stream(self._channel._ref, SUBSCRIBE, arguments, {}, raw=True)
                try:  # not in coroutines and contexts of their own: this is what each idle feed consists of
                    async for payload in payloads:
                        self._take(payload)
                        if self.over:
                            return
                except (ConnectionLost, Timeout) as error:  # the owner moved, died, or was silent for long
                    log.debug("%s/%s is followed anew: %s", *self.key, error)
                finally:
                    await payloads.aclose()  # type: ignore[attr-defined]
                await asyncio.sleep(_PAUSE)
        except Exception as error:  # for who reads to raise
            if not isinstance(error, ActorError):
                log.exception("%s/%s cannot be followed", *self.key)
            self.failure = error
        finally:
            self.over = True
            self._tell()

    def _take(self, payload: bytes) -> None:
        offset, kind, data, turn = _entries.decode(payload)
        self._add(Entry(Event(offset, readable(data), kind, turn)), len(payload))
        if kind == "closed":
            self.over = True
        self._tell()

    def _add(self, entry: Entry, size: int) -> None:
        if entry.event.offset != self.end:  # what follows is not what came before: only "closed" may leave a gap
            self._entries.clear()
            self._size = 0
        self._entries.append((entry, size))
        self._size += size
        self.end = entry.event.offset + 1
        room, gone = self._room(), 0
        while self._size > room:  # one that is larger than the room is read from the store
            self._size -= self._entries[gone][1]
            gone += 1
        del self._entries[:gone]

    def _tell(self) -> None:
        for follower in self.followers:
            follower.wake()
