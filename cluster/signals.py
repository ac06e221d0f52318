"""What a process was asked to do by signals."""

import asyncio
import contextlib
import os
import signal
from types import FrameType

from cluster.exit_status import ExitStatus


class StopSignals:
    """Turns SIGTERM and SIGINT into an event; one more of either ends the process at once, also while an actor blocks
    the event loop.

    To be made inside the running loop of the main thread.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # Not the loop's own way: that is not heard while the loop is blocked.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    async def wait(self) -> None:
        """Return when the process was asked to stop."""
        await self.asked.wait()

    @property
    def exit_status(self) -> "ExitStatus":
        """How a process that then stopped in good order exits: Ctrl-C is told apart, as shells expect."""
        return ExitStatus.INTERRUPTED if self.received is signal.SIGINT else ExitStatus.OK

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Runs between any two steps of the main thread, which may be inside of a file of Python's right now."""
        if self.received is not None:
            os._exit(ExitStatus.TERMINATED if number == signal.SIGTERM else ExitStatus.INTERRUPTED)
        self.received = signal.Signals(number)
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(2, f"silo: {self.received.name}: stopping; once more ends it at once\n".encode())
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._loop.call_soon_threadsafe(self.asked.set)
