"""Whether an event loop runs, as another thread sees it."""

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.ports import Clock


class Pulse:
    """A thread asks the loop, and the loop notes when it came to that. One question is open at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: "Clock") -> None:
        self._loop = loop
        self._clock = clock
        self._felt = clock.now()
        self._answered = threading.Event()
        self._answered.set()

    @property
    def silence(self) -> float:
        """For how long (seconds) the loop has not run for certain; 0 if it has answered the last question."""
        return 0.0 if self._answered.is_set() else self._clock.now() - self._felt

    def feel(self) -> bool:
        """Ask the loop, unless it has yet to answer. False if it is closed and never will."""
        if self._answered.is_set():
            self._answered.clear()
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                return False
        return not self._loop.is_closed()

    def wait(self, within: float) -> bool:
        """Whether the loop answers ``within`` seconds, or ``release`` ends the wait."""
        return self._answered.wait(within)

    def release(self) -> None:
        """Let nobody wait any longer."""
        self._answered.set()

    def _answer(self) -> None:
        self._felt = self._clock.now()
        self._answered.set()
