"""Turns that change a little of a large state, for ``benchmarks.durable``.

``python -m benchmarks.durable_state <States as JSON>`` says Ready, then one Measured for each kind and
size of a state, and ends.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.durable_app import Form, Listing
from benchmarks.peer import Answer, Ready
from benchmarks.worker import answer_with, open_answers
from cluster import Silo
from cluster.serve import run

KINDS = {"listing": "a list that grows at its end", "form": "fields that change in place"}
_MOST_GROWTH = 0.3  # of a list while it is measured
_ENTRY = 100


class States(msgspec.Struct):
    """Which states to make, and how many turns each of them gets."""

    sizes: list[int]
    turns: int


class Measured(msgspec.Struct):
    """What a turn cost, on average. Seconds and bytes."""

    kind: str
    size: int
    wall: float
    cpu: float
    written: float
    """Bytes that the process wrote: to the log, and from there to the file."""


async def measure(states: States, say: Callable[[Answer], None]) -> int:
    """One kind and size after the other, with one caller."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        async with Silo([Listing, Form], listen="127.0.0.1:0", store=f"sqlite:///{folder}/state.db"):
            say(answer_with(Ready()))
            for size in states.sizes:
                for kind in KINDS:
                    say(answer_with(await _measure(kind, size, states.turns)))
    return 0


async def _measure(kind: str, size: int, turns: int) -> Measured:
    each = min(turns, max(int(size * _MOST_GROWTH) // _ENTRY, 1)) if kind == "listing" else turns
    known = [(Listing if kind == "listing" else Form).ref(f"{size}-{number}") for number in range(turns // each)]
    for ref in known:
        await ref.fill(size)
    await known[0].change(0)  # what only the first change does
    written, cpu, began = _written(), time.process_time(), time.perf_counter()
    for ref in known:
        for number in range(each):
            await ref.change(number)
    made = each * len(known)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Measured(kind, size, wall / made, cpu / made, (_written() - written) / made)


def _written() -> float:
    """Bytes that this process has passed to write calls so far; NaN where there is no /proc."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return float("nan")
    return float(dict(line.split(": ") for line in lines)["wchar"])


if __name__ == "__main__":
    _states = msgspec.json.decode(sys.argv[1], type=States)
    _say = open_answers()
    sys.exit(run(lambda: measure(_states, _say)))
