"""The reminders of one actor: durable wake-up calls, by name."""

import asyncio
import math
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from actors.context import check_may, gathering_turn
from actors.durations import seconds
from actors.effects import Effects
from actors.records import REMINDER, Reminder, encode

if TYPE_CHECKING:
    from actors.activation import Activation

_SHORTEST_SLEEP = 0.01
_NO_ROOM = 0.5  # seconds until a full mailbox is tried again
_LONGEST_SLEEP = 3600.0  # the wall clock may be set meanwhile


class Due(NamedTuple):
    """A reminder whose time has come."""

    name: str
    row: Reminder


class Reminders:
    """Turns each reminder that is due into a message of the durable inbox, in one commit.

    One that was due several times while nobody was there fires once, and then at its next time.
    """

    __slots__ = ("_activation", "_firing", "_timer", "rows")

    def __init__(self, activation: "Activation") -> None:
        self._activation = activation
        self._firing: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.rows: dict[str, Reminder] = {}

    def next_due(self) -> float | None:
        """When the next one is due, in seconds since 1970."""
        return min((row.due for row in self.rows.values()), default=None)

    def advance(self, fired: Due, put: dict[bytes, bytes], drop: list[bytes]) -> None:
        """Add to a commit that a reminder has become a message: it goes on to its next time, or away."""
        self._firing.discard(fired.name)
        if self.rows.get(fired.name) == fired.row:
            self._set(fired.name, self._following(fired.row), put, drop)

    def change(self, changes: dict[str, Reminder | None], put: dict[bytes, bytes], drop: list[bytes]) -> None:
        """Add to a commit which reminders its turn has set, and (None) cancelled."""
        for name, row in changes.items():
            self._set(name, row, put, drop)

    def _set(self, name: str, row: Reminder | None, put: dict[bytes, bytes], drop: list[bytes]) -> None:
        key = REMINDER + name.encode()
        if row is None:
            self.rows.pop(name, None)
            drop.append(key)
        else:
            self.rows[name] = row
            put[key] = encode(row)

    def _following(self, row: Reminder) -> Reminder | None:
        if not row.every:
            return None
        missed = max(0, math.floor((self._activation.runtime.clock.time() - row.due) / row.every))
        return Reminder(row.id, row.due + (missed + 1) * row.every, row.every)

    def start(self) -> None:
        """Wait for the next one."""
        self.stop()
        waiting = [row.due for name, row in self.rows.items() if name not in self._firing]
        if waiting:
            runtime = self._activation.runtime
            delay = min(max(min(waiting) - runtime.clock.time(), _SHORTEST_SLEEP), _LONGEST_SLEEP)
            self._timer = runtime.loop.call_later(delay, self._fire)

    def stop(self) -> None:
        """Wait no more: the store keeps them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        now = self._activation.runtime.clock.time()
        for name, row in self.rows.items():
            if row.due <= now and name not in self._firing:
                if not self._activation.remind(Due(name, row)):
                    self._timer = self._activation.runtime.loop.call_later(_NO_ROOM, self._fire)
                    return
                self._firing.add(name)
        self.start()


async def set_reminder(
    activation: "Activation", name: str, after: float | None, every: timedelta | float | None
) -> None:
    """See ``Actor.remind``; ``after`` None cancels."""
    if not 0 < len(name.encode()) <= 200:
        raise ValueError(f"a reminder's name is text of 1 to 200 bytes, not {name!r}")
    period = 0.0 if every is None else seconds("every", every, positive=True)
    row = None if after is None else Reminder(secrets.token_hex(8), activation.runtime.clock.time() + after, period)
    turn = gathering_turn()
    activation.check_durable()
    if turn is not None and turn.activation is activation:
        turn.gathered.reminders[name] = row
    else:
        check_may("set reminders")
        effects = Effects()
        effects.reminders[name] = row
        await activation.runtime.apply(activation, activation.durable_side.commits.apart(effects))
