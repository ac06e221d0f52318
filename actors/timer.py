"""Timers: turns that an activation gives itself while it lives."""

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.activation import Activation


class Timer:
    """Calls a method of the actor as a turn of its own, once or again and again, until it is cancelled.

    It moves with the activation if it calls one of the actor's methods, and is gone with it otherwise. It does not keep
    it awake; ``remind`` is for what has to survive.
    """

    def __init__(
        self,
        activation: "Activation",
        number: int,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        after: float,
        every: float | None,
    ) -> None:
        self._activation = activation
        self._number = number
        self.callback = callback
        self.args = args
        self.every = every
        self._handle: asyncio.TimerHandle | None = activation.runtime.loop.call_later(after, self._fire)

    @property
    def active(self) -> bool:
        """Whether it will fire, or runs now."""
        return self._number in self._activation.timers

    def left(self) -> float:
        """Seconds until it fires; 0 if it has, and its turn is to come."""
        return max(0.0, self._handle.when() - self._activation.runtime.loop.time()) if self._handle is not None else 0.0

    def method_of(self, actor: object) -> str | None:
        """The name of the actor's method that it calls, None if it calls something else."""
        name = getattr(self.callback, "__name__", "")
        return name if getattr(self.callback, "__self__", None) is actor and hasattr(type(actor), name) else None

    def cancel(self) -> None:
        """Do not fire again. May be called at any time."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._activation.timers.pop(self._number, None)

    def _fire(self) -> None:
        self._handle = None
        self._activation.run_timer(self._number)

    async def run(self) -> None:
        """Its turn has come."""
        try:
            result = self.callback(*self.args)
            if inspect.isawaitable(result):
                await result
        finally:
            if self.active:
                if self.every is None:
                    self.cancel()
                else:  # counted from the end of its turn, so that a slow one does not pile up
                    self._handle = self._activation.runtime.loop.call_later(self.every, self._fire)
