"""Sleeping actors with reminders, for ``benchmarks.durable``.

``python -m benchmarks.durable_reminders <Sleepers as JSON>`` says Ready, then Measured, and ends.
"""

import asyncio
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from actors.ports import Due, Store
from benchmarks.durable_app import Sleeper
from benchmarks.footprint import proportional_memory
from benchmarks.peer import Answer, Ready
from benchmarks.worker import answer_with, open_answers
from cluster import Silo
from cluster.serve import run

_BASE = 1_000
_CALLERS = 256
_LATER = 30 * 86_400.0
_LOOKS = 3
_DUE = 100


class Sleepers(msgspec.Struct):
    """How many actors sleep."""

    count: int


class Measured(msgspec.Struct):
    """What a sleeping actor with a reminder costs, and what the agenda reads every second."""

    count: int
    memory_each: float
    """Bytes of the silo's process (PSS)."""
    disk_each: float
    """Bytes of the store's files."""
    rows_idle: float
    """Rows that a look brings when nothing is due."""
    seconds_a_look: float
    due: int
    """How many further reminders then became due ..."""
    rows_due: int
    """... and how many rows were read until all of them had fired."""


class CountingStore:
    """Counts what the agenda reads. Everything else is the store's own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked = asyncio.Event()
        self.looks = self.rows = 0
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def due(self, before: float, *, hosts: Collection[str], after: Due | None = None, limit: int) -> list[Due]:
        """Pass it on."""
        began = time.perf_counter()
        found = await self._store.due(before, hosts=hosts, after=after, limit=limit)
        self.seconds += time.perf_counter() - began
        self.looks += 1
        self.rows += len(found)
        self._looked.set()
        return found

    async def looked(self) -> None:
        """Return after the next look."""
        self._looked.clear()
        await self._looked.wait()


async def measure(sleepers: Sleepers, say: Callable[[Answer], None]) -> int:
    """Put actors to sleep, and watch the agenda."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        async with Silo([Sleeper], listen="127.0.0.1:0", store=f"sqlite:///{folder}/state.db") as silo:
            counting = CountingStore(silo.runtime.store)
            silo.runtime.store = counting
            say(answer_with(Ready()))
            await _put_to_sleep(silo, "base", _BASE, _LATER)
            memory, disk = _memory(), _disk(folder)
            await _put_to_sleep(silo, "later", sleepers.count, _LATER)
            memory, disk = _memory() - memory, _disk(folder) - disk
            rows_idle, seconds = await _watch(counting)
            counting.rows = 0
            await _put_to_sleep(silo, "soon", _DUE, 0.01)
            while Sleeper.fired < _DUE:
                await counting.looked()
            say(
                answer_with(
                    Measured(
                        sleepers.count,
                        memory / sleepers.count,
                        disk / sleepers.count,
                        rows_idle,
                        seconds,
                        _DUE,
                        counting.rows,
                    )
                )
            )
    return 0


async def _put_to_sleep(silo: Silo, prefix: str, count: int, seconds: float) -> None:
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:
            await Sleeper.ref(f"{prefix}-{number:08}").doze(seconds)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(call())
    while silo.runtime.activations:  # noqa: ASYNC110  # nothing tells of the last one
        await asyncio.sleep(0.01)


async def _watch(counting: CountingStore) -> tuple[float, float]:
    await counting.looked()
    counting.looks, counting.rows, counting.seconds = 0, 0, 0.0
    while counting.looks < _LOOKS:
        await counting.looked()
    return counting.rows / counting.looks, counting.seconds / counting.looks


def _memory() -> int:
    gc.collect()
    return proportional_memory()


def _disk(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def _exit_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    _sleepers = msgspec.json.decode(sys.argv[1], type=Sleepers)
    _say = open_answers()
    sys.exit(run(lambda: measure(_sleepers, _say)))
