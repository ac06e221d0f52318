"""Threads for the plain functions that steps run: a silo has room for many that wait, and none can hold up its end."""

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger("actors")


class StepThreads:
    """Runs each function in a thread of its own, ``most`` at a time; the others wait.

    asyncio's own pool has a handful of threads on a small machine, and the process waits for them when it ends.
    These are daemons: what does not return is left behind.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = asyncio.Semaphore(most)

    async def run(
        self, where: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """What the function returns or raises. Cancelling ends the waiting; the thread is taken until it returns."""
        if self._free.locked():
            log.warning(
                "%s: a step waits for a thread: %d are busy with functions that block (Settings.max_step_threads)",
                where,
                self._most,
            )
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        work = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        thread = threading.Thread(target=self._work, args=(loop, work, ended), name=f"step of {where}", daemon=True)
        try:
            thread.start()
        except BaseException:  # there are no more threads to have
            self._free.release()
            raise
        result, error = await ended
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # it refers to this frame, which would refer to it

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], Any],
        ended: "asyncio.Future[tuple[Any, BaseException | None]]",
    ) -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = work(), None
        except BaseException as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._end, ended, outcome)

    def _end(
        self, ended: "asyncio.Future[tuple[Any, BaseException | None]]", outcome: tuple[Any, BaseException | None]
    ) -> None:
        self._free.release()
        if not ended.done():
            ended.set_result(outcome)
