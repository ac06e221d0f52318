"""Known bugs of waits and signals, to be switched on one at a time; see ``plants.py``."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from actors.commits import Commits
from actors.effects import Effects
from actors.journal import Journal
from actors.records import Recorded, Waiting
from actors.signals import Signals
from actors.wake_up import WakeUp

if TYPE_CHECKING:
    from tests.simulation.world import World

Bug = AbstractContextManager[Any]


def early_signal_forgotten(world: "World") -> Bug:
    """A signal that comes while nobody waits is told to be there, and is not."""
    gather = Commits._gather

    def forgetful(self: Commits, effects: Effects) -> tuple[dict[bytes, bytes], list[bytes]]:
        if self._durable.wait is None:
            effects.signals = []
        return gather(self, effects)

    return patch.object(Commits, "_gather", forgetful)


def signal_forgotten_with_its_silo(world: "World") -> Bug:
    """The next activation does not know the signals that nobody has taken."""
    return patch.object(Signals, "restore", lambda self, rest, value: None)


def signal_not_waited_for(world: "World") -> Bug:
    """A wait is over at its deadline though its signal is on its way to the store."""
    return patch.object(Signals, "is_coming", lambda self, name: False)


def signal_taken_and_kept(world: "World") -> Bug:
    """That a signal was taken is journaled, and its row stays."""
    record = Journal.record

    async def keep(self: Journal, path: str, row: Recorded, **more: Any) -> None:
        await record(self, path, row, **{**more, "drop": ()})

    return patch.object(Journal, "record", keep)


def wake_time_not_stored(world: "World") -> Bug:
    """Nobody is told when a wait is over."""
    times = WakeUp._times

    def silent(self: WakeUp) -> Any:
        durable = self._durable
        wait, durable.wait = durable.wait, None
        try:
            yield from times(self)
        finally:
            durable.wait = wait

    return patch.object(WakeUp, "_times", silent)


def signal_wakes_nobody(world: "World") -> Bug:
    """Nobody is told that a wait has its signal: after a crash the turn goes on at its deadline."""

    def waits(self: WakeUp) -> bool:
        wait = self._durable.wait
        return wait is not None and not wait.turn.interruption.pending

    return patch.object(WakeUp, "_waits", property(waits))


def begins_anew(world: "World") -> Bug:
    """A turn that runs again waits anew, for all of the time."""
    take = Journal.take

    def forgetful(self: Journal, path: str, label: str) -> Recorded | None:
        row = take(self, path, label)
        return None if isinstance(row, Waiting) else row

    return patch.object(Journal, "take", forgetful)
