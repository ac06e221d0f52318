"""Appends on their way to the streams: those that come while others are under way go together, in one turn."""

import asyncio
from collections import deque
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from actors.errors import ClusterUnavailable, MailboxFull
from cluster.gateway.streams.names import stream_address
from cluster.gateway.streams.stream_state import Appended, Write
from cluster.gateway.streams.stream_writer import PATIENCE, StreamWriter

_MOST = 256  # writes in one turn
_MOST_BYTES = 2**20  # in one turn, unless a single write has more
_MOST_WAITING_BYTES = 128 * 2**20  # for all streams together


class _Waiting(NamedTuple):
    """A write, who wants to know what came of it, and until when it may begin."""

    write: Write
    outcome: "asyncio.Future[Appended]"
    until: float


_Queue: TypeAlias = deque[_Waiting]


class Appender:
    """The appends of one gateway. Per stream one message is under way at a time, and order is kept."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, path: str, write: Write) -> Appended:
        """What came of a write, once that is durable. Raises an ``ActorError`` if the stream cannot be reached."""
        queue = self._queues.get(path)
        if queue is not None:
            return await self._wait(path, queue, write)
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

    async def _wait(self, path: str, queue: _Queue, write: Write) -> Appended:
        if self._waiting_bytes + len(write.body) > _MOST_WAITING_BYTES:
            raise MailboxFull(f"{stream_address(path)}: too many appends wait here; try later")
        self._waiting_bytes += len(write.body)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(write, loop.create_future(), loop.time() + PATIENCE)
        queue.append(waiting)
        return await waiting.outcome

    async def _append_all(self, path: str, queue: _Queue) -> None:
        """Append what waits, and what comes meanwhile."""
        stream = _stream(path)
        while queue:
            group = self._take(path, queue)
            if not group:
                break
            try:
                outcomes = await stream.append([waiting.write for waiting in group])
            except Exception as error:  # for those who wait to raise
                _refuse(group, error)
            else:
                for waiting, outcome in zip(group, outcomes, strict=True):
                    if not waiting.outcome.done():
                        waiting.outcome.set_result(outcome)
        del self._queues[path]

    def _take(self, path: str, queue: _Queue) -> list[_Waiting]:
        """The next ones to go together; those that have waited too long go nowhere."""
        now = asyncio.get_running_loop().time()
        group: list[_Waiting] = []
        size = 0
        while queue and len(group) < _MOST and (not group or size + len(queue[0].write.body) <= _MOST_BYTES):
            waiting = queue.popleft()
            self._waiting_bytes -= len(waiting.write.body)
            if waiting.until < now:
                late = f"{stream_address(path)}: not appended: the appends before it took {PATIENCE:g} s"
                _refuse([waiting], ClusterUnavailable(late))
            else:
                group.append(waiting)
                size += len(waiting.write.body)
        return group


def _refuse(group: list[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.outcome.done():
            waiting.outcome.set_exception(error)


@lru_cache(maxsize=1024)
def _stream(path: str) -> StreamWriter:
    return StreamWriter(path)
