"""Timeouts of many calls at the cost of a set insertion each."""

import asyncio
import heapq
import logging
from collections.abc import Callable

log = logging.getLogger("actors")


class Deadlines:
    """Calls ``expire(id)`` some time after an id's deadline: late by at most 1/128 of the timeout, or 8 ms.

    A loop timer per call would cost more than the call; ids whose deadlines fall together share one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[int], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._ids: dict[float, set[int]] = {}
        self._order: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: int, seconds: float) -> float:
        """Start waiting. Returns the slot to give to ``discard``."""
        grain = max(seconds / 128, 0.008)
        slot = (int((self._loop.time() + seconds) / grain) + 1) * grain
        ids = self._ids.get(slot)
        if ids is None:
            ids = self._ids[slot] = set()
            heapq.heappush(self._order, slot)
            if self._timer is None or slot < self._timer.when():
                self._arm()
        ids.add(call)
        return slot

    def discard(self, call: int, slot: float) -> None:
        """Stop waiting for a call."""
        ids = self._ids.get(slot)
        if ids is not None:
            ids.discard(call)

    def close(self) -> None:
        """Stop waiting for all of them."""
        self._ids.clear()
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
            for call in self._ids.pop(heapq.heappop(self._order)):
                try:
                    self._expire(call)
                except Exception:
                    log.exception("call %d could not be ended at its deadline", call)
        self._timer = None
        self._arm()
