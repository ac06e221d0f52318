"""A closed loop of callers: each calls again as soon as it has its answer."""

import asyncio
import contextvars
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

Call = Callable[[int], Awaitable[object]]
"""Makes one call and waits for its answer. Gets a number that rises from call to call."""


class Window(msgspec.Struct):
    """What one run of the loop saw. Times in seconds."""

    calls: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


async def drive(
    call: Call,
    *,
    callers: int,
    seconds: float,
    numbers: "itertools.count[int]",
    contexts: Sequence[contextvars.Context] = (),
) -> Window:
    """Call for so many seconds and until the last answer is there. The first failure ends it and is raised.

    The callers are spread evenly over ``contexts``, by default the current one.
    """
    took: list[float] = []
    spread = itertools.cycle(contexts or [contextvars.copy_context()])
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            caller = _call_until(began + seconds, call, numbers, took)
            group.create_task(caller, context=next(spread).copy())
    elapsed = time.perf_counter() - began
    took.sort()
    return Window(len(took), elapsed, percentile(took, 50), percentile(took, 99))


async def _call_until(end: float, call: Call, numbers: "itertools.count[int]", took: list[float]) -> None:
    clock = time.perf_counter
    now = clock()
    while True:
        began = now
        await call(next(numbers))
        now = clock()
        took.append(now - began)
        if now >= end:
            return


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the sorted values that is not below so many percent of them (nearest rank)."""
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
