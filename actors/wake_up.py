"""When an actor that sleeps has to be woken for what it has left to do."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.durable import Durable


class WakeUp:
    """The time at which an actor has to be there, and what the store knows of that."""

    __slots__ = ("_activation", "_durable", "known")

    def __init__(self, activation: "Activation", durable: "Durable") -> None:
        self._activation = activation
        self._durable = durable
        self.known: float | None = None
        """What the store was told last, or will be with the commits under way."""

    def time(self) -> float | None:
        """The time (seconds since 1970) at which the store has to let somebody wake it; None for never."""
        durable, now = self._durable, self._activation.runtime.clock.time()
        if (durable.rows > 0 and not self._waits) or (durable.outbox is not None and durable.outbox.pending):
            return self.known if self.known is not None and self.known <= now else min((now, *self._times()))
        return min(self._times(), default=None)

    def _times(self) -> Iterator[float]:
        """When there is something to do, if not now."""
        wait = self._durable.wait
        if wait is not None and wait.deadline != float("inf"):
            yield wait.deadline
        for source in (self._durable.reminders, self._durable.trimmer):
            due = source.next_due() if source is not None else None
            if due is not None:
                yield due

    @property
    def _waits(self) -> bool:
        """Whether the oldest message waits for what is not there yet, and the others for that."""
        wait = self._durable.wait
        if wait is None or wait.turn.interruption.pending:
            return False
        return not self._durable.signals.has(wait.name)

    @property
    def is_stale(self) -> bool:
        """Whether the store does not know when there is something to do."""
        return self.time() != self.known
