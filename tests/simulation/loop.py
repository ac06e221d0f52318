"""An event loop without I/O: virtual time, and every process of the simulated cluster with a queue of its own."""

import asyncio
import heapq
import itertools
import random
import sys
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LIVELOCK = 200_000  # callbacks at one moment of virtual time
START = 1000.0  # of virtual time
WALL = 1_700_000_000.0  # seconds since 1970 at virtual time 0
SKEW = 0.2  # seconds by which the wall clocks of two silos differ at most
CPU = 2e-5  # virtual seconds that a batch of callbacks takes


class Stuck(Exception):
    """Nothing can run any more, or something runs for ever."""


class Process:
    """A silo or client process: whose callbacks belong together, stop together and die together.

    Every callback of the loop carries a context, and ``PROCESS`` in it says whose it is. So a frozen process runs
    nothing, not even what was scheduled before, exactly as under SIGSTOP; what arrives and what becomes due waits.
    """

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host
        self.ready: deque[asyncio.Handle] = deque()
        self.frozen = False
        self.dead = False
        self.drift = 0.0
        self.context = copy_context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return self.name


PROCESS: ContextVar[Process] = ContextVar("simulated_process")


class Arrival(asyncio.TimerHandle):
    """The arrival of something from outside the process. A waking process may see it before its own timers."""


class SimTask(asyncio.Task[T]):
    """A task whose place in a set depends on nothing but the order of creation."""

    _serials = itertools.count(1)

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: "SimLoop", context: Context | None) -> None:
        self.serial = next(SimTask._serials)
        self.process = PROCESS.get(loop.outside) if context is None else context.get(PROCESS, loop.outside)
        super().__init__(coro, loop=loop, context=context)

    def __hash__(self) -> int:
        return self.serial

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.BaseEventLoop):
    """Runs one batch of callbacks of one process after another; where nothing is ready, time jumps to the next timer.

    Callbacks of one process run in the order in which they were scheduled, as asyncio promises. Which process comes
    next is drawn from the seed: between processes there is no order.
    """

    _running = False

    def __init__(self, seed: random.Random) -> None:
        super().__init__()
        SimTask._serials = itertools.count(1)
        self._random = seed
        self._now = START
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = itertools.count()
        self._closed = False
        self.outside = Process("world", "world")
        self.processes: list[Process] = [self.outside]
        self.tasks: list[SimTask[Any]] = []
        self.failures: list[str] = []
        self.steps = 0

    # -- what asyncio asks for --------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._schedule(asyncio.TimerHandle(when, callback, args, self, context))

    def arrive(self, process: Process, when: float, callback: Callable[..., object], *args: Any) -> None:
        """Something reaches the process from outside at that time."""
        self._schedule(Arrival(when, callback, args, self, process.context))

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # no generators here
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> SimTask[T]:
        task = SimTask(coro, loop=self, context=context)
        self.tasks.append(task)
        return task

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when it is due."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception that nobody took: a finding."""
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        self.failures.append(f"{context.get('message')}: {context.get('task') or context.get('future')}\n{text}")

    # -- running ----------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, work: Coroutine[Any, Any, T]) -> SimTask[T]:
        """Start a task that belongs to the process."""
        if process not in self.processes:
            self.processes.append(process)
        return self.create_task(work, context=process.context.copy())

    def run(self, work: Coroutine[Any, Any, T], *, until: float) -> T:
        """Run the world's main task to its end. Raises ``Stuck`` when that cannot or does not come."""
        asyncio.events._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize)
        self._running = True
        try:
            main = self.spawn(self.outside, work)
            since, moment = 0, self._now
            while not main.done():
                self._turn()
                since += 1
                if self._now - moment > 1:
                    since, moment = 0, self._now
                if since > LIVELOCK:
                    raise Stuck(f"{since} turns of the loop within a second of virtual time\n{self.pending()}")
                if self._now > until:
                    raise Stuck(f"not finished at the time limit {until:g}\n{self.pending()}")
            return main.result()
        finally:
            self._running = False
            sys.set_asyncgen_hooks(*hooks)
            asyncio.events._set_running_loop(None)

    def pending(self) -> str:
        """Where every living task waits."""
        lines = []
        for task in self.tasks:
            if not task.done():
                frames = task.get_stack(limit=4)
                where = " < ".join(f"{f.f_code.co_qualname}:{f.f_lineno}" for f in reversed(frames))
                lines.append(f"  task {task.serial} {task.get_coro().__qualname__}: {where}")  # type: ignore[union-attr]
        return "\n".join(lines[-60:])

    def take_lost_exceptions(self) -> list[str]:
        """What tasks of living processes have raised and nobody has taken until now."""
        found = []
        for task in self.tasks:
            if not task.process.dead and task.done() and task._log_traceback:
                error = task.exception()
                text = "".join(traceback.format_exception(error)) if error is not None else ""
                found.append(f"{task.process} {task.get_coro().__qualname__}: {text}")  # type: ignore[union-attr]
        return found

    def close(self) -> None:
        """Forget everything. Tasks that were under way, those of dead processes above all, end without a word."""
        self._closed = True
        for process in self.processes:
            process.dead = True
            process.ready.clear()
        asyncio.events._set_running_loop(self)  # for what they do in their ``finally``
        try:
            while self.tasks:
                task = self.tasks.pop()
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    with suppress(BaseException):
                        task.get_coro().close()
                elif not task.cancelled():
                    task.exception()  # crashed processes retrieve nothing
        finally:
            asyncio.events._set_running_loop(None)
        self._timers.clear()

    def kill(self, process: Process) -> None:
        """The process runs nothing ever again: no ``finally``, no goodbye."""
        process.dead = True
        process.ready.clear()

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on. Whether it sees first what has arrived or what has become due is drawn."""
        process.frozen = False
        if self._random.random() < 0.5:
            arrived = [handle for handle in process.ready if isinstance(handle, Arrival)]
            due = [handle for handle in process.ready if not isinstance(handle, Arrival)]
            process.ready = deque(arrived + due)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.call_soon(self.create_task, generator.aclose())

    def _schedule(self, handle: asyncio.TimerHandle) -> asyncio.TimerHandle:
        heapq.heappush(self._timers, (handle.when(), next(self._serial), handle))
        return handle

    def _enqueue(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(PROCESS, self.outside)  # type: ignore[attr-defined]
        if not process.dead:
            process.ready.append(handle)

    def _turn(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            due = heapq.heappop(timers)[2]
            if not due.cancelled():
                self._enqueue(due)
        runnable = [process for process in self.processes if process.ready and not process.frozen]
        if not runnable:
            if not timers:
                raise Stuck(f"deadlock: nothing is ready and nothing will be\n{self.pending()}")
            self._now = max(self._now, timers[0][0])
            return
        process = runnable[0] if len(runnable) == 1 else self._random.choice(runnable)
        ready = process.ready
        for _ in range(len(ready)):
            if not ready or process.frozen:
                break  # it died or was frozen by its own doing
            handle = ready.popleft()
            if not handle.cancelled():
                self.steps += 1
                handle._run()
        self._now += CPU
