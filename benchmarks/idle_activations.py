"""A silo full of idle activations, for ``benchmarks.memory``: ``python -m benchmarks.idle_activations <Idle as JSON>``.

It says Ready, how many activations it starts counting from, and one Measured for each size. It ends when its stdin
does.
"""

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Callable

import msgspec

from actors import actor_ref
from benchmarks.echo_app import Echo, Keeper
from benchmarks.footprint import Census, proportional_memory
from benchmarks.peer import PAYLOAD, Answer, Ready
from benchmarks.worker import answer_with, open_answers
from cluster import Silo
from cluster.serve import run

BASE = 1_000
"""Activations that are there before the counting starts: code, caches and free lists are then in place."""

_CALLERS = 100


class Idle(msgspec.Struct, kw_only=True):
    """What kind of activations to make, and how many."""

    type: str
    sizes: list[int]
    store: str = "memory:"
    etcd: str | None = None
    settle: float = 1.0
    census: bool = False


class ByType(msgspec.Struct):
    """Objects of one type that each activation adds."""

    name: str
    count: float
    size: float


class Measured(msgspec.Struct):
    """What so many activations take."""

    activations: int
    bytes_each: float
    by_type: list[ByType] = []
    """Largest first; empty unless a census was asked for, which leaves holes in the heap that ``bytes_each`` misses."""


async def measure(idle: Idle, say: Callable[[Answer], None]) -> int:
    """Fill the silo step by step."""
    async with Silo([Echo, Keeper], listen="127.0.0.1:0", etcd=idle.etcd, store=idle.store) as silo:
        say(answer_with(Ready()))
        await _activate(idle.type, 0, BASE)
        before = Census() if idle.census else None
        base = await _settled(idle.settle)
        say(answer_with(BASE))
        there = BASE
        for size in idle.sizes:
            await _activate(idle.type, there, size)
            there = size
            took = await _settled(idle.settle) - base
            assert len(silo.runtime.activations) == size
            by_type = _compare(before, Census(), size - BASE) if before is not None else []
            say(answer_with(Measured(size, took / (size - BASE), by_type)))
        await asyncio.Event().wait()
    return 0


async def _activate(type: str, first: int, until: int) -> None:
    numbers = iter(range(first, until))

    async def call() -> None:
        for number in numbers:
            await actor_ref(f"{type}-{number:08}").echo(PAYLOAD)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(call())


async def _settled(seconds: float) -> int:
    await asyncio.sleep(seconds)
    gc.collect()
    return proportional_memory()


def _compare(before: Census, after: Census, activations: int) -> list[ByType]:
    grown = after.size - before.size
    return [
        ByType(name, (after.count[name] - before.count[name]) / activations, size / activations)
        for name, size in grown.most_common()
        if size >= activations
    ]


def _exit_with_stdin() -> None:
    """End at once when stdin does: nobody needs these actors to be put to sleep one by one."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    _idle = msgspec.json.decode(sys.argv[1], type=Idle)
    _say = open_answers()
    sys.exit(run(lambda: measure(_idle, _say)))
