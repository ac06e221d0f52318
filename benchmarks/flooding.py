"""A client for ``benchmarks.overload``: ``python -m benchmarks.flooding <Flood as JSON>``.

An open loop: calls begin at their time, whether earlier ones were answered or not. It says Ready, then for each Offer
on stdin what became of the calls.
"""

import asyncio
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from actors import actor_ref
from actors.errors import ActorError, Rejected
from benchmarks.footprint import resident_memory
from benchmarks.load import Window, drive, percentile
from benchmarks.peer import PAYLOAD, Answer, Ready
from benchmarks.worker import answer_with, open_answers
from cluster import connect
from cluster.serve import run

_TICK = 0.005  # seconds
_MOST_AT_ONCE = 200  # calls; who is late by more offers less, which the rate then tells
_TIMEOUT = 60.0


class Flood(msgspec.Struct):
    """Whom to call."""

    endpoint: str
    type: str
    actors: int


class Offer(msgspec.Struct):
    """Calls to begin. ``callers``: a closed loop of so many instead, at whatever rate that comes to."""

    seconds: float
    rate: float = 0.0
    callers: int = 0
    normal: float = 0.0
    """An answer that takes longer is a late one. Seconds."""


class Offered(msgspec.Struct):
    """What became of the calls of one offer. Times in seconds; of none at all, 0."""

    calls: int
    answered: int
    refused: int
    """Certainly not run."""
    failed: dict[str, int]
    """All others, by what was raised."""
    seconds: float
    """Until the last one had begun."""
    answered_in_time: int
    """Until then."""
    until_last_answer: float
    answer_p50: float
    answer_p99: float
    refusal_p50: float
    refusal_p99: float
    ended: float
    """When the last one began, by the clock that all processes of the machine share."""
    memory: int
    """The most bytes of RAM that this process held."""
    late_until: float
    """When the last second ended in which more than a tenth of the answers were late, by the same clock; 0 if none."""


class Flooder:
    """Begins calls and notes what becomes of them."""

    def __init__(self, flood: Flood) -> None:
        self._refs = [actor_ref(f"{flood.type}-{number}") for number in range(flood.actors)]
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: list[tuple[float, float]] = []  # when, and after how many seconds
        self._refusals: list[float] = []
        self._failures: Counter[str] = Counter()

    async def closed_loop(self, offer: Offer) -> Window:
        """The rate at which so many callers are answered."""
        return await drive(self._ask, callers=offer.callers, seconds=offer.seconds, numbers=self._numbers)

    async def open_loop(self, offer: Offer) -> Offered:
        """Begin all calls at their time, and wait until each has ended."""
        began, calls, skipped, memory = time.monotonic(), 0, 0, 0
        while (passed := time.monotonic() - began) < offer.seconds:
            due = int(passed * offer.rate)
            skipped += max(due - skipped - calls - _MOST_AT_ONCE, 0)  # else nothing else would be done here
            for _ in range(due - skipped - calls):
                calls += 1
                task = asyncio.create_task(self._note())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            memory = max(memory, resident_memory())
            await asyncio.sleep(_TICK)
        ended = time.monotonic()
        if self._tasks:
            await asyncio.wait(self._tasks)
        return self._result(offer, calls, began, ended, memory)

    def _result(self, offer: Offer, calls: int, began: float, ended: float, memory: int) -> Offered:
        answers, refusals = sorted(seconds for _, seconds in self._answers), sorted(self._refusals)
        offered = Offered(
            calls=calls,
            answered=len(answers),
            refused=len(refusals),
            failed=dict(self._failures),
            seconds=ended - began,
            answered_in_time=sum(when <= ended for when, _ in self._answers),
            until_last_answer=time.monotonic() - ended,
            answer_p50=_percentile(answers, 50),
            answer_p99=_percentile(answers, 99),
            refusal_p50=_percentile(refusals, 50),
            refusal_p99=_percentile(refusals, 99),
            ended=ended,
            memory=memory,
            late_until=_late_until([(when, seconds > offer.normal) for when, seconds in self._answers]),
        )
        self._answers, self._refusals, self._failures = [], [], Counter()
        return offered

    def _ask(self, number: int) -> Awaitable[object]:
        return self._refs[number % len(self._refs)].options(timeout=_TIMEOUT).work(PAYLOAD)

    async def _note(self) -> None:
        began = time.monotonic()
        try:
            await self._ask(next(self._numbers))
        except Rejected:
            self._refusals.append(time.monotonic() - began)
        except ActorError as error:
            self._failures[type(error).__name__] += 1
        else:
            now = time.monotonic()
            self._answers.append((now, now - began))


def _late_until(answers: list[tuple[float, bool]]) -> float:
    seconds: dict[int, list[bool]] = {}
    for when, late in answers:
        seconds.setdefault(math.floor(when), []).append(late)
    return max((second + 1.0 for second, late in seconds.items() if sum(late) > len(late) / 10), default=0.0)


def _percentile(ordered: list[float], percent: float) -> float:
    return percentile(ordered, percent) if ordered else 0.0


async def flood(what: Flood, say: Callable[[Answer], None]) -> int:
    """Carry out offers until stdin ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with connect(what.endpoint):
        flooder = Flooder(what)
        say(answer_with(Ready()))
        async for line in lines:
            offer = msgspec.json.decode(line, type=Offer)
            say(answer_with(await (flooder.closed_loop(offer) if offer.callers else flooder.open_loop(offer))))
    return 0


if __name__ == "__main__":
    _flood = msgspec.json.decode(sys.argv[1], type=Flood)
    _say = open_answers()
    sys.exit(run(lambda: flood(_flood, _say)))
