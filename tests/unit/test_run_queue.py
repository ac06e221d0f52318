"""The run queue on a loop whose time passes by itself: what runs when, and what is read in between."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest

from actors.activation import Activation
from actors.run_queue import SLICE, RunQueue

ROUND = 10e-6  # seconds that the loop takes to come round
TURN = 1e-3


class Loop:
    """Runs callbacks in the order of their times. Everything else takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.call_later(ROUND, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._numbers), callback, args))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] < until:
            due, _, callback, args = heapq.heappop(self._due)
            self.now = max(self.now, due)
            callback(*args)


class Backlog:
    """An activation with more turns than anybody waits for."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.queue = RunQueue(cast("asyncio.AbstractEventLoop", loop))
        self.ran: list[float] = []
        self.add()

    def add(self) -> None:
        self.queue.add(cast("Activation", self))

    def start_waiting(self) -> None:
        self.ran.append(self.loop.now)
        self.loop.now += TURN
        self.add()


class Flood:
    """A link that has always more to read, each piece so long after the last one was taken."""

    def __init__(self, backlog: Backlog, gap: float, *, room: bool) -> None:
        self.read = 0
        self._backlog, self._gap, self._room = backlog, gap, room
        self._next()

    def _next(self) -> None:
        self._backlog.loop.call_later(self._gap, self._arrive)

    def _arrive(self) -> None:
        self.read += 1
        self._backlog.queue.begin_slice()
        if not self._room:
            self._backlog.queue.refused()
        self._backlog.queue.end_slice()
        self._next()


def share_of_turns(backlog: Backlog) -> float:
    return len(backlog.ran) * TURN / backlog.loop.now


def test_with_nothing_to_read_turns_have_nearly_all_of_the_time() -> None:
    backlog = Backlog(Loop())
    backlog.loop.run(until=1.0)
    assert share_of_turns(backlog) > 0.98


def test_what_can_be_read_at_once_is_read_before_the_next_slice() -> None:
    backlog = Backlog(Loop())
    flood = Flood(backlog, ROUND, room=True)
    backlog.loop.run(until=1.0)
    assert flood.read > 20_000
    assert 0.45 < share_of_turns(backlog) < 0.6


@pytest.mark.parametrize("gap", [0.5e-4, 2e-4])
def test_what_there_is_no_room_for_is_waited_for_because_another_thread_reads_it(gap: float) -> None:
    """It comes within a fraction of a millisecond after the last piece was taken, and not within two rounds."""
    backlog, patient = Backlog(Loop()), Backlog(Loop())
    flood, refused = Flood(backlog, gap, room=True), Flood(patient, gap, room=False)
    for each in (backlog, patient):
        each.loop.run(until=1.0)
    assert refused.read > 0.4 * (0.5 / gap)  # half of the time is for reading
    assert refused.read > 5 * flood.read
    assert share_of_turns(patient) > 0.45, "and half of it for turns, whatever comes"


def test_a_flood_that_has_ended_costs_nothing_more() -> None:
    backlog = Backlog(Loop())
    backlog.queue.refused()
    backlog.loop.run(until=1.0)
    assert share_of_turns(backlog) > 0.97


def test_a_slice_ends_after_some_milliseconds() -> None:
    backlog = Backlog(Loop())
    pauses = []
    backlog.loop.call_later(0.0, lambda: None)
    backlog.loop.run(until=0.1)
    for earlier, later in itertools.pairwise(backlog.ran):
        if later - earlier > TURN * 1.001:
            pauses.append(later)
    assert len(pauses) >= 0.1 / (SLICE + TURN) - 2
