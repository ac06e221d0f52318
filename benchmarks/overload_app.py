"""The app under ``benchmarks.overload``: actors that compute, and actors that commit."""

import time
from dataclasses import dataclass

from actors import Actor, handler

WORK = 500e-6  # seconds of CPU that a turn takes
STEPS = 10


class Clerk(Actor, persist="never", idle_timeout=3600):
    """Computes for half a millisecond."""

    @handler
    async def work(self, data: bytes) -> bytes:
        """The argument, after the computing."""
        end = time.thread_time() + WORK
        while time.thread_time() < end:
            pass
        return data


@dataclass
class Count:
    """How many calls there were."""

    calls: int = 0


class Ledger(Actor, idle_timeout=3600):
    """Commits each call."""

    state: Count

    @handler
    async def work(self, data: bytes) -> bytes:
        """The argument, once the call and each of its steps are counted for good."""
        for _ in range(STEPS):
            await self.step("count", self._count)
        self.state.calls += 1
        return data

    async def _count(self) -> int:
        return self.state.calls
