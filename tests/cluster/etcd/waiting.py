"""Waiting for things that the tests expect, with a limit and a message instead of a sleep."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from cluster.etcd import Event, Watch


class MonotonicClock:
    def now(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()


async def eventually(
    what: str, condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, within: float = 15.0
) -> None:
    """Poll until the condition holds; fail with ``what`` was awaited after ``within`` seconds."""
    end = time.monotonic() + within
    while True:
        outcome = condition()
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        if outcome:
            return
        assert time.monotonic() < end, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)


async def started(watch: Watch) -> Watch:
    """Take the first batch, which says that etcd watches."""
    async with asyncio.timeout(15):
        batch = await anext(watch)
    assert batch.events == []
    return watch


async def take(watch: Watch, count: int, *, within: float = 30.0) -> list[Event]:
    """The next ``count`` events; checks that revisions rise and batches keep what they promise."""
    events: list[Event] = []
    async with asyncio.timeout(within):
        while len(events) < count:
            batch = await anext(watch)
            if batch.events:
                assert batch.revision == batch.events[-1].kv.mod_revision
                assert not events or batch.events[0].kv.mod_revision > events[-1].kv.mod_revision
            events += batch.events
    assert len(events) == count
    return events


def keys(events: list[Event]) -> list[str]:
    return [event.kv.key for event in events]
