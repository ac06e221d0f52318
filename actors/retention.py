"""How much of a channel is retained, and the trimming of what is not."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from actors.channel_log import ChannelLog, read_items
from actors.durations import seconds

if TYPE_CHECKING:
    from actors.activation import Activation

log = logging.getLogger("actors")

_LATE = 8  # entries may be over a limit of age or bytes by this part of it, before they are looked at
_LEAST_LATE = 1.0  # seconds
_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.05, 3600.0  # the wall clock may be set meanwhile
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # after which what the store refused is tried again
_PAGE = 64


@dataclass(frozen=True, slots=True)
class Retention:
    """What of a channel is kept: the newest ``items`` entries, the newest ``bytes``, what is younger than ``age``.

    Seconds or a timedelta; None is without limit, and an entry must satisfy all. Exact for ``items``. Within an eighth
    of the limit for ``bytes`` and ``age`` (and a second for the latter), never below it. The newest entry is always
    kept, and offsets never begin anew. Who reads from where nothing is kept any more is told so by ``OffsetGone``.
    """

    items: int | None = None
    bytes: int | None = None
    age: timedelta | float | None = None

    def __post_init__(self) -> None:
        for name, value in (("items", self.items), ("bytes", self.bytes)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number from 1 or None, not {value!r}")
        if self.age is not None:
            if isinstance(self.age, bool) or not isinstance(self.age, timedelta | float | int):
                raise ValueError(f"age must be a positive number of seconds or timedelta, or None, not {self.age!r}")
            object.__setattr__(self, "age", seconds("age", self.age, positive=True))

    @classmethod
    def of(cls, given: "Retention | Mapping[str, Any] | tuple[Any, ...]") -> Self:
        """What a class option says. Raises ``ValueError``."""
        if isinstance(given, cls):
            return given
        try:
            if isinstance(given, Mapping):
                return cls(**given)
            if isinstance(given, tuple):
                return cls(*given)
        except TypeError:
            pass
        raise ValueError(f"Retention(items=..., bytes=..., age=...), or a dict or tuple of these, not {given!r}")

    @property
    def seconds(self) -> float | None:
        """The age in seconds."""
        assert self.age is None or isinstance(self.age, float)
        return self.age


ALL: Final = Retention()
SYSTEM: Final = Retention(items=1000)
"""Of channels whose names begin with "$"."""


class Trimmer:
    """Removes what is too much or too old from the channels of one activation, in commits of its own.

    It looks when a limit may have been passed by an eighth, so that it costs little and wakes nobody often. While the
    store is away it tries again after growing pauses.
    """

    __slots__ = ("_activation", "_failed", "_keep", "_pause", "_tasks", "_timer")

    def __init__(self, activation: "Activation", keep: Retention) -> None:
        self._activation = activation
        self._keep = keep
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: set[str] = set()  # channels that could not be trimmed
        self._pause = 0.0

    def _channels(self) -> list[ChannelLog]:
        channels = self._activation.durable_side.channels or {}
        return [channel for channel in channels.values() if channel.keep is self._keep]

    def _due(self, channel: ChannelLog) -> float | None:
        """When entries of the channel will have to go because of their age, in seconds since 1970."""
        age = self._keep.seconds
        if age is None or channel.next - channel.first < 2:
            return None
        return channel.oldest + age + max(age / _LATE, _LEAST_LATE)

    def next_due(self) -> float | None:
        """When somebody has to see to it, in seconds since 1970."""
        if self._keep.seconds is None:
            return None
        return min((due for channel in self._channels() if (due := self._due(channel)) is not None), default=None)

    def start(self) -> None:
        """See to what a former activation has left, and then to what comes."""
        for channel in self._channels():
            if self._keep.bytes is not None:
                self._look(channel)
        self._wait()

    def stop(self) -> None:
        """The activation has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks.values():
            task.cancel()

    def published(self, channel: ChannelLog) -> None:
        """The channel has grown."""
        limit = self._keep.bytes
        if limit is not None and channel.size - channel.trimmed_at > limit // _LATE:
            self._look(channel)
        if self._keep.seconds is not None and self._timer is None:
            self._wait()

    def _wait(self) -> None:
        due, runtime = self.next_due(), self._activation.runtime
        if self._failed:
            self._timer = runtime.loop.call_later(self._pause, self._fire)
        elif due is not None:
            delay = min(max(due - runtime.clock.time(), _SHORTEST_SLEEP), _LONGEST_SLEEP)
            self._timer = runtime.loop.call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._activation.runtime.clock.time()
        failed, self._failed = self._failed, set()
        for channel in self._channels():
            due = self._due(channel)
            if channel.name in failed or (due is not None and due <= now):
                self._look(channel)
        if not self._tasks:  # else it goes on when these have ended
            self._wait()

    def _look(self, channel: ChannelLog) -> None:
        if channel.name not in self._tasks:
            self._tasks[channel.name] = self._activation.runtime.spawn(self._trim_all(channel))

    async def _trim_all(self, channel: ChannelLog) -> None:
        channel.trimmed_at = channel.size
        try:
            while await self._trim(channel):
                pass
        except Exception as error:
            self._pause = min(self._pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            log.warning(
                "%s/%s could not be trimmed, again in %g s: %s",
                self._activation.address,
                channel.name,
                self._pause,
                error,
            )
            self._failed.add(channel.name)
        else:
            self._pause = 0.0
        del self._tasks[channel.name]
        if not self._tasks and self._timer is None:
            self._wait()

    async def _trim(self, channel: ChannelLog) -> bool:
        """Remove some entries; whether there may be more to remove."""
        activation, end = self._activation, channel.end
        store, first = activation.runtime.store, channel.begin
        rows = await read_items(store, activation.address, channel.name, first, end, limit=_PAGE)
        if not rows or rows[0][0] != first or channel.erased:
            return first < channel.begin and not channel.erased
        age, limit = self._keep.seconds, self._keep.bytes
        before = activation.runtime.clock.time() - age if age is not None else float("-inf")
        spare = channel.size - limit if limit is not None else -1
        kept, oldest = first, channel.oldest
        for offset, item in rows:
            kept, oldest = offset, item.at
            if offset == end - 1 or (item.at > before and item.end > spare):
                break
        else:
            kept += 1
        if (kept, oldest) == (channel.first, channel.oldest):
            return False
        written = await activation.write(activation.durable_side.commits.trim(channel, kept, oldest))
        return written and kept == first + len(rows)
