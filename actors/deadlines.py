"""Timeouts of many calls at the cost of a set insertion each."""

import asyncio
import heapq
import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

log = logging.getLogger("actors")
T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Calls ``expire(call)`` some time after a call's deadline: late by at most 1/128 of the timeout, or 8 ms.

    A loop timer per call would cost more than the call; those whose deadlines fall together share one. A call is known
    by its id, or by whatever else there is only one of.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[T], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._calls: dict[float, dict[T, None]] = {}
        self._order: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: T, seconds: float) -> float:
        """Start waiting. Returns the slot to give to ``discard``."""
        grain = max(seconds / 128, 0.008)
        slot = (int((self._loop.time() + seconds) / grain) + 1) * grain
        calls = self._calls.get(slot)
        if calls is None:
            calls = self._calls[slot] = {}
            heapq.heappush(self._order, slot)
            if self._timer is None or slot < self._timer.when():
                self._arm()
        calls[call] = None
        return slot

    def discard(self, call: T, slot: float) -> None:
        """Stop waiting for a call."""
        calls = self._calls.get(slot)
        if calls is not None:
            calls.pop(call, None)

    def close(self) -> None:
        """Stop waiting for all of them."""
        self._calls.clear()
        self._order.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._timer = self._loop.call_at(self._order[0], self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        while self._order and self._order[0] <= now + 0.001:
            for call in self._calls.pop(heapq.heappop(self._order)):
                try:
                    self._expire(call)
                except Exception:
                    log.exception("call %r could not be ended at its deadline", call)
        self._timer = None
        self._arm()
