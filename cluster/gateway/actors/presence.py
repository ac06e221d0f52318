"""Who else reads a channel, as the gateway of this silo knows it from the others."""

import asyncio
import contextlib
import itertools
import secrets
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from actors.channel import Channel
from actors.errors import ActorError
from cluster.gateway.actors.attendance import MOST, ChannelPresence, Reader, presence_key
from cluster.gateway.problems import Problem

INTERVAL: Final = 1.0
"""Seconds between two reports of a gateway: so long after others came or went its readers know of it."""

_AT_MOST: Final = 200  # reports a second


class Change(NamedTuple):
    """Somebody came or went."""

    event: Literal["join", "leave"]
    reader: Reader


class Presence:
    """The channels whose readers want to be seen, on this silo."""

    def __init__(self) -> None:
        self.gateway = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._rooms: dict[tuple[str, str], _Room] = {}

    def new_id(self) -> str:
        """An id for a reader of this silo: all of them begin with the same."""
        return f"{self.gateway}{next(self._numbers)}"

    def join(self, channel: Channel, reader: Reader) -> "Attendee":
        """Let the reader be seen, while the context is entered. Raises ``Problem`` where too many are there."""
        key = channel._ref.address, channel.name
        room = self._rooms.get(key)
        if room is None or room.over:
            room = self._rooms[key] = _Room(self, presence_key(*key))
        if len(room.own) >= MOST:
            raise Problem(429, "TooManyRequests", f"of the readers of one channel, {MOST} can be seen on each silo")
        return Attendee(room, reader)

    def forget(self, room: "_Room") -> None:
        """Nobody is in it any more."""
        for key in [key for key, found in self._rooms.items() if found is room]:
            del self._rooms[key]

    @property
    def interval(self) -> float:
        """Seconds between two reports about one channel."""
        return max(INTERVAL, len(self._rooms) / _AT_MOST)


class _Room:
    """One channel: the readers of this silo, and those of the others."""

    def __init__(self, presence: Presence, key: str) -> None:
        self.own: dict[str, Reader] = {}
        self.attendees: set[Attendee] = set()
        self.over = False
        self._presence = presence
        self._key = key
        self._others: dict[str, Reader] = {}
        self._version = -1
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._report_all())

    @property
    def everybody(self) -> dict[str, Reader]:
        """All who are there, by id."""
        return {**self._others, **self.own}

    def enter(self, attendee: "Attendee") -> None:
        """Somebody came here."""
        self.attendees.add(attendee)
        self.own[attendee.reader.id] = attendee.reader
        self._tell()

    def leave(self, attendee: "Attendee") -> None:
        """Somebody went here."""
        self.attendees.discard(attendee)
        del self.own[attendee.reader.id]
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        for attendee in self.attendees:
            attendee.wake()

    async def _report_all(self) -> None:
        try:
            while self.own or not self.over:
                self._changed.clear()
                self.over = not self.own  # one report more: that nobody is here
                with contextlib.suppress(ActorError):  # it lives nowhere for a moment: what is known stays
                    await self._report()
                if self.own or not self.over:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._presence.interval):
                            await self._changed.wait()
        finally:
            self.over = True
            self._presence.forget(self)

    async def _report(self) -> None:
        lease = 3 * self._presence.interval + 1
        actor = ChannelPresence.ref(self._key).options(timeout=lease)
        found = await actor.attend(self._presence.gateway, list(self.own.values()), lease, self._version)
        if found.readers is None:
            return
        others = {reader.id: reader for reader in found.readers if not reader.id.startswith(self._presence.gateway)}
        if found.heard is None:
            self._version = found.version
        else:  # those of the gateways that it has not heard of again may be there still
            heard = tuple(found.heard)
            others |= {id: reader for id, reader in self._others.items() if not id.startswith(heard)}
        if others != self._others:
            self._others = others
            for attendee in self.attendees:
                attendee.wake()


class Attendee:
    """One reader who is seen, and sees the others. Use it as a context manager."""

    def __init__(self, room: _Room, reader: Reader) -> None:
        self.reader = reader
        self._room = room
        self._told: dict[str, Reader] = {}
        self._came = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._room.enter(self)
        self._told = self._room.everybody
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.leave(self)

    @property
    def readers(self) -> list[Reader]:
        """Who was there at the last change that was told of, this one included."""
        return list(self._told.values())

    def wake(self) -> None:
        """Somebody came or went."""
        self._came.set()

    async def changes(self) -> list[Change]:
        """Wait for changes. Who came and went in between is left out."""
        while True:
            await self._came.wait()
            self._came.clear()
            now, before = self._room.everybody, self._told
            self._told = now
            found = [Change("leave", before[id]) for id in before.keys() - now.keys()]
            found += [Change("join", now[id]) for id in now.keys() - before.keys()]
            if found:
                return found
