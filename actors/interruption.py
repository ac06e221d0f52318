"""Stopping what runs: a turn that is interrupted hears of it at its await, wherever that is.

``asyncio`` can only cancel a task. Here the cancellation of a turn's task is told apart on its way down: the handler
gets ``Interrupted``, which its ``except Exception`` does not swallow, and inside of a step's body it is the plain
cancellation that libraries know how to clean up after.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

from actors.errors import Interrupted

T = TypeVar("T")

GRACE: Final = 5.0
"""Seconds that a turn has to clean up before it can be interrupted again."""
MOST: Final = 32
"""Interrupts of one turn that are told apart where it runs again: it hears of later ones as of one."""


class Interruption:
    """How often a turn was interrupted, and how often it has heard of that.

    It hears of them one by one, with time to clean up in between, also where it runs again.
    """

    __slots__ = ("_again_at", "_cancelled", "_over", "_task", "handler", "heard", "reasons", "rollback")

    def __init__(self) -> None:
        self.reasons: list[str] = []
        """Why it was interrupted, each time."""
        self.heard = 0
        """How many of these it knows of."""
        self.rollback = False
        """Whether nothing of the turn is to stay, whatever its handler makes of the interruption."""
        self.handler: Coroutine[Any, Any, Any] | None = None
        """What listens, while it runs."""
        self._task: asyncio.Task[Any] | None = None
        self._over = self._cancelled = False
        self._again_at = float("-inf")

    @property
    def reason(self) -> str | None:
        """Why it was interrupted when it last heard of that, or will hear first; None: it was not."""
        return self.reasons[max(self.heard, 1) - 1] if self.reasons else None

    @property
    def pending(self) -> bool:
        """Whether there is one that the turn has yet to hear of."""
        return self.heard < len(self.reasons)

    def note(self, reasons: list[str], *, rollback: bool) -> None:
        """The turn was interrupted before it began, perhaps on another silo: it hears of that once it has caught up."""
        self.reasons, self.rollback = reasons, rollback

    def request(self, reason: str, now: float, *, rollback: bool = False) -> bool:
        """Interrupt it, now or as soon as it begins. Whether it will hear of it: not so if its handler has ended."""
        if self._over:
            return False
        self.rollback = self.rollback or rollback
        if not self.pending and now >= self._again_at:  # else it has been told, and cleans up
            if len(self.reasons) == MOST:
                self.reasons.pop()
                self.heard -= 1
            self.reasons.append(reason)
            self.deliver()
        return True

    def deliver(self) -> None:
        """Let the turn hear of it at the await that it waits at, or comes to next, unless it still cleans up."""
        if self.pending and self._task is not None and self._task.get_loop().time() >= self._again_at:
            self._cancel_soon(self._task)

    def _cancel_soon(self, task: asyncio.Task[Any]) -> None:
        task.get_loop().call_soon(self._cancel, self.heard)

    def _cancel(self, heard: int) -> None:
        if self.pending and self.heard == heard and self._task is not None and not self._over:
            self._cancelled = True
            self._task.cancel()

    async def check(self) -> None:
        """Raise ``Interrupted`` if the turn has yet to hear of one: before anything that costs is begun."""
        if not self.pending:
            return
        if self._task is not None:
            if asyncio.current_task() is self._task:
                raise self._take(self._task)
            self._cancel_soon(self._task)  # and with the turn what runs beside it for it, this too
        await asyncio.sleep(GRACE)
        raise asyncio.CancelledError

    def _take(self, task: asyncio.Task[Any]) -> Interrupted:
        self._cancelled = False
        self.heard += 1
        loop = task.get_loop()
        self._again_at = loop.time() + GRACE
        if self.pending:  # it was told again before, elsewhere
            loop.call_later(GRACE, self._cancel, self.heard)
        return Interrupted(self.reason)

    def of(self, error: BaseException) -> bool:
        """Whether what a handler raised is the interruption, if only among others (as a TaskGroup tells of it)."""
        if not self.reasons:
            return False
        return isinstance(error, Interrupted) or (
            isinstance(error, BaseExceptionGroup) and error.subgroup(Interrupted) is not None
        )

    @types.coroutine
    def listen(
        self, handler: Coroutine[Any, Any, T], *, at_once: bool, goes_on: Callable[[], bool]
    ) -> Generator[Any, Any, T]:
        """Await the handler; a cancellation that is an interruption reaches it as ``Interrupted``.

        ``at_once``: also one that was noted before. Else that waits for ``deliver``. ``goes_on``: whether the turn may
        go on at all. Else a cancellation is its end, whoever wants to interrupt it besides.
        """
        task = asyncio.current_task()
        assert task is not None
        self._task, self.handler = task, handler
        if at_once:
            self.deliver()
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    waits_for = handler.send(value) if error is None else handler.throw(error)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                value = error = None
                try:
                    value = yield waits_for
                except asyncio.CancelledError as cancelled:
                    error = cancelled
                    if self._cancelled and self.pending and goes_on():
                        task.uncancel()
                        error = self._take(task)
                except GeneratorExit:  # nobody runs it any more, and the handler may have gone before
                    handler.close()
                    raise
                except BaseException as other:
                    error = other
        finally:
            self._over, self._task, self.handler = True, None, None  # a task holds its context, and that the turn
            error = None  # its traceback holds this frame


@types.coroutine
def cancellable(body: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await a step's body, for which an interruption of the turn is the cancellation of its task.

    Whatever the body makes of that, ``Interrupted`` comes out: a late result counts for nothing.
    """
    value: Any = None
    error: BaseException | None = None
    interrupted: Interrupted | None = None
    try:
        while True:
            waits_for = body.send(value) if error is None else body.throw(error)
            value = error = None
            try:
                value = yield waits_for
            except Interrupted as found:
                interrupted, error = found, asyncio.CancelledError(str(found))
            except GeneratorExit:  # as above
                body.close()
                raise
            except BaseException as other:
                error = other
    except StopIteration as stop:
        if interrupted is not None:
            raise interrupted from None
        return stop.value  # type: ignore[no-any-return]
    except BaseException as failed:
        if interrupted is not None:
            raise interrupted from failed
        raise


async def as_coroutine(awaitable: Awaitable[T]) -> T:
    """Any awaitable as the coroutine that ``cancellable`` takes."""
    return await awaitable
