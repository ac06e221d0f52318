"""Time limits of tasks that wait, for less than ``asyncio.timeout`` costs: there is no loop timer for each."""

import asyncio

from actors.deadlines import Deadlines


class Limit:
    """Cancels a task when its time is over; ``expired`` then tells that from other cancellations."""

    __slots__ = ("_slot", "expired", "task")

    def __init__(self, task: "asyncio.Task[object]") -> None:
        self.task = task
        self.expired = False
        self._slot = 0.0


class Limits:
    """The limits of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._deadlines: Deadlines[Limit] = Deadlines(loop, self._expire)

    def begin(self, seconds: float) -> Limit:
        """From now on the running task is limited, until ``end``."""
        task = asyncio.current_task()
        assert task is not None
        limit = Limit(task)
        limit._slot = self._deadlines.add(limit, seconds)
        return limit

    def end(self, limit: Limit) -> bool:
        """It is limited no more. Whether its time was over: then its cancellation is taken back."""
        self._deadlines.discard(limit, limit._slot)
        if limit.expired:
            limit.task.uncancel()
        return limit.expired

    def close(self) -> None:
        """Limit nothing any more."""
        self._deadlines.close()

    @staticmethod
    def _expire(limit: Limit) -> None:
        limit.expired = True
        limit.task.cancel()
