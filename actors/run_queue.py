"""Which activations have turns to start, and how many before the loop sees to everything else."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actors.activation import Activation

SLICE: Final = 0.005  # seconds
_MOST_AT_ONCE: Final = 256  # turns in a slice
_QUIET: Final = 2  # times that the loop comes round until a link that has more to read has handed it over
_PAUSE: Final = 0.0003  # seconds in which what another thread reads for a link gets here, if the loop lets it


class RunQueue:
    """Lets activations start what waits, one turn each in turn, in slices of a few milliseconds.

    Between two slices the loop comes round until nothing more arrives, for as long as a slice at most: links are read,
    messages for which there is no room are refused, and interrupts are heard, however much work waits. While there is
    no room it looks longer whether more arrives: what must be refused is to be read at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[Activation] = deque()
        self._scheduled = False
        self._quiet = 0  # so often has the loop come round since something arrived
        self._listen_until = 0.0
        self._refuses = 0  # above 0: there was no room for something since the slice before the last
        self.until = float("inf")
        """Until when messages that arrive may still be run at once."""

    def add(self, activation: "Activation") -> None:
        """Let it start what waits, behind all others."""
        self._queue.append(activation)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        now = self._loop.time()
        if self._quiet < _QUIET and now < self._listen_until:
            self._quiet += 1
            if self._refuses:
                self._loop.call_later(_PAUSE, self._run)
            else:
                self._loop.call_soon(self._run)
            return
        self._refuses = max(self._refuses - 1, 0)
        try:
            self._run_slice(now + SLICE)
        finally:
            self._quiet, self._listen_until = 0, self._loop.time() + SLICE
            self._scheduled = bool(self._queue)
            if self._queue:
                self._loop.call_soon(self._run)

    def _run_slice(self, end: float) -> None:
        for _ in range(_MOST_AT_ONCE):
            if not self._queue:
                return
            self._queue.popleft().start_waiting()
            if self._loop.time() >= end:
                return

    def refused(self) -> None:
        """There was no room for a message."""
        self._refuses = 2

    def begin_slice(self) -> None:
        """Messages arrive together: those behind the slice wait for their turn."""
        self._quiet = 0
        self.until = self._loop.time() + SLICE

    def end_slice(self) -> None:
        """They have all arrived."""
        self.until = float("inf")
