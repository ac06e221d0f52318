"""Appends on their way to the streams: those that come while others are under way go together, in one turn."""

import asyncio
from collections import deque
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from cluster.gateway.streams.names import stream_key
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_state import Appended, Write

PATIENCE: Final = 30.0
"""Seconds that a request waits for its stream."""

_MOST = 256  # writes in one turn
_MOST_BYTES = 2**20  # in one turn, unless a single write has more


class _Waiting(NamedTuple):
    """A write, and who wants to know what came of it."""

    write: Write
    outcome: "asyncio.Future[Appended]"


_Queue: TypeAlias = deque[_Waiting]


class Appender:
    """The appends of one gateway. Per stream one message is under way at a time, and order is kept."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, path: str, write: Write) -> Appended:
        """What came of a write, once that is durable. Raises an ``ActorError`` if the stream cannot be reached."""
        queue = self._queues.get(path)
        if queue is not None:
            waiting = _Waiting(write, asyncio.get_running_loop().create_future())
            queue.append(waiting)
            return await waiting.outcome
        queue = self._queues[path] = deque()
        try:
            [outcome] = await _stream(path).append([write])
        finally:
            if queue:
                task = asyncio.create_task(self._append_all(path, queue))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                del self._queues[path]
        return outcome

    async def _append_all(self, path: str, queue: _Queue) -> None:
        """Append what waits, and what comes meanwhile."""
        stream = _stream(path)
        while queue:
            group = _take(queue)
            try:
                outcomes = await stream.append([waiting.write for waiting in group])
            except Exception as error:  # for those who wait to raise
                for waiting in group:
                    if not waiting.outcome.done():
                        waiting.outcome.set_exception(error)
            else:
                for waiting, outcome in zip(group, outcomes, strict=True):
                    if not waiting.outcome.done():
                        waiting.outcome.set_result(outcome)
        del self._queues[path]


@lru_cache(maxsize=1024)
def _stream(path: str) -> Stream:
    return Stream.ref(stream_key(path)).options(timeout=PATIENCE)


def _take(queue: _Queue) -> list[_Waiting]:
    group = [queue.popleft()]
    size = len(group[0].write.body)
    while queue and len(group) < _MOST and size + len(queue[0].write.body) <= _MOST_BYTES:
        group.append(queue.popleft())
        size += len(group[-1].write.body)
    return group
