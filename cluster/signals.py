"""What a process was asked to do by signals."""

import asyncio
import contextlib
import os
import signal
import sys

from cluster.exit_status import ExitStatus


class StopSignals:
    """Turns SIGTERM and SIGINT into an event; one more of either ends the process at once.

    To be made inside the running loop of the main thread.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, self._on_signal, number)

    async def wait(self) -> None:
        """Return when the process was asked to stop."""
        await self.asked.wait()

    @property
    def exit_status(self) -> "ExitStatus":
        """How a process that then stopped in good order exits: Ctrl-C is told apart, as shells expect."""
        return ExitStatus.INTERRUPTED if self.received is signal.SIGINT else ExitStatus.OK

    def _on_signal(self, number: signal.Signals) -> None:
        if self.received is not None:
            os._exit(ExitStatus.TERMINATED if number is signal.SIGTERM else ExitStatus.INTERRUPTED)
        self.received = number
        print(f"silo: {number.name}: stopping; once more ends it at once", file=sys.stderr, flush=True)
        self.asked.set()
