"""What the channel of turns tells of steps, so that a turn can be watched while it runs."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from actors.envelope import Failure

if TYPE_CHECKING:
    from actors.journal import Journal

SLOW: Final = 0.5
"""Seconds after which a step that runs is told of. Quicker ones are told of together, not more often than this."""

Told = Sequence[Mapping[str, Any]]


class Quick:
    """The quick steps of a turn that were not told of yet: a turn of many would be slowed down by telling of each."""

    __slots__ = ("_since", "_steps")

    def __init__(self, now: float) -> None:
        self._since = now
        self._steps: list[tuple[str, float]] = []

    def add(self, name: str, seconds: float) -> None:
        """One more has run."""
        self._steps.append((name, seconds))

    def is_due(self, now: float) -> bool:
        """Whether nothing was told for long enough."""
        return now - self._since >= SLOW

    def take(self) -> list[tuple[str, float]]:
        """Their names and seconds."""
        steps, self._steps = self._steps, []
        return steps

    def tell(self, now: float) -> Told:
        """What there is to tell before anything else of the turn."""
        self._since = now
        return [{"event": "steps_finished", "steps": self.take()}] if self._steps else ()


class Progress:
    """One step that runs. What it tells rides on the step's own commit; that a slow one has started has its own."""

    __slots__ = ("_journal", "_name", "_since", "_timer", "_told")

    def __init__(self, journal: "Journal", name: str) -> None:
        self._journal, self._name = journal, name
        self._since = 0.0
        self._told = False
        self._timer: asyncio.TimerHandle | None = None

    def _now(self) -> float:
        return self._journal.turn.activation.runtime.loop.time()

    def begin(self) -> None:
        """The step runs from now on."""
        loop = self._journal.turn.activation.runtime.loop
        self._since = loop.time()
        if not self._told:
            self._timer = loop.call_later(SLOW, self._is_slow)

    def _is_slow(self) -> None:
        self._timer = None
        self._journal.turn.activation.runtime.spawn(self._tell())

    async def _tell(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the turn is over, or given up: it is told with that
            await self._journal.write({}, tell=self.started())

    def _event(self, event: str, **more: object) -> Told:
        return [*self._journal.quick.tell(self._now()), {"event": event, "step": self._name, **more}]

    def started(self) -> Told:
        """There is a commit with which to tell that the step starts."""
        self._told = True
        return self._event("step_started")

    def finished(self) -> Told:
        """The step has a result."""
        now = self._now()
        seconds, quick = now - self._since, self._journal.quick
        if self._told or seconds >= SLOW or quick.is_due(now):
            return self._event("step_finished", seconds=seconds)
        quick.add(self._name, seconds)
        return ()

    def failed(self, raised: Failure) -> Told:
        """The step has raised this."""
        error = {"type": raised.type_name, "message": raised.message}
        return self._event("step_failed", seconds=self._now() - self._since, error=error)

    def end(self) -> None:
        """The step runs no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
