"""The silo that interrupts, for ``benchmarks.interrupt``: ``python -m benchmarks.interrupting <Tries as JSON>``.

It hosts no actors. It says Ready and then, for each load of the owner, Measured.
"""

import asyncio
import os
import random
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable

import msgspec

from actors.channel import Event
from benchmarks.interrupt_app import Neighbour, Writer
from benchmarks.load import percentile
from benchmarks.model_server import Generated
from benchmarks.peer import Answer, Place, Ready
from benchmarks.worker import answer_with, open_answers
from cluster import Silo
from cluster.serve import run

_WARM_UP = 20
_LIMIT = 60.0  # seconds that anything of one try may take


class Tries(msgspec.Struct, kw_only=True):
    """How often, where, and how busy the owner is."""

    place: Place
    provider: str
    """Its URL."""
    interval: float
    """Seconds between two of its tokens."""
    count: int
    loads: list[float]
    """Shares of a CPU that the owner's process is kept at, one after the other; 0: what the tries need."""


class Latency(msgspec.Struct):
    """Seconds from the call of ``interrupt()``."""

    p50: float
    p99: float
    longest: float


class Measured(msgspec.Struct):
    """So many tries under one load."""

    load: float
    tries: int
    returned: Latency
    """Until ``interrupt()`` has returned: the interruption is durable."""
    raised: Latency
    """Until ``Interrupted`` was raised in the handler."""
    closed: Latency
    """Until the provider saw its connection closed."""
    cpu: float
    """The share of a CPU that the owner's process has used."""


class Once(msgspec.Struct):
    """One try, in seconds."""

    returned: float
    raised: float
    closed: float


async def measure(tries: Tries, say: Callable[[Answer], None]) -> int:
    """Interrupt again and again."""
    place = tries.place
    async with Silo([], listen="127.0.0.1:0", etcd=place.etcd, store=place.store, name=place.name):
        say(answer_with(Ready()))
        for load in tries.loads:
            say(answer_with(await _measure(tries, load)))
    return 0


async def _measure(tries: Tries, load: float) -> Measured:
    writer, neighbour = Writer.ref(f"load-{load:g}"), Neighbour.ref("all")
    await neighbour.set_share(load)
    computing = asyncio.create_task(neighbour.options(timeout=None).compute())
    published = writer.channel("output").subscribe()
    for number in range(_WARM_UP):
        await _try(tries, writer, f"warm-up-{load:g}-{number}", published)
    cpu, began = await neighbour.cpu_seconds(), time.perf_counter()
    found = [await _try(tries, writer, f"{load:g}-{number}", published) for number in range(tries.count)]
    cpu = (await neighbour.cpu_seconds() - cpu) / (time.perf_counter() - began)
    await neighbour.set_share(0.0)
    await computing
    return Measured(
        load,
        tries.count,
        _latency([once.returned for once in found]),
        _latency([once.raised for once in found]),
        _latency([once.closed for once in found]),
        cpu,
    )


async def _try(tries: Tries, writer: Writer, prompt: str, published: AsyncIterator[Event]) -> Once:
    """Let it write, wait until a reader has the first token, and interrupt at any point between two tokens."""
    async with asyncio.timeout(_LIMIT):
        writing = asyncio.create_task(writer.write(tries.provider, prompt))
        async for event in published:
            if event.data.strip() == prompt:
                break
        await asyncio.sleep(random.random() * tries.interval)
        began = time.perf_counter()
        await writer.interrupt()
        returned = time.perf_counter()
        raised = await writing
        closed = await asyncio.to_thread(_closed_at, tries.provider, prompt)
        return Once(returned - began, raised - began, closed - began)


def _closed_at(provider: str, prompt: str) -> float:
    with urllib.request.urlopen(f"{provider}/requests/{prompt}/closed", timeout=_LIMIT) as answer:
        return msgspec.json.decode(answer.read(), type=Generated).closed_at


def _latency(seconds: list[float]) -> Latency:
    seconds.sort()
    return Latency(percentile(seconds, 50), percentile(seconds, 99), seconds[-1])


def _exit_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    _tries = msgspec.json.decode(sys.argv[1], type=Tries)
    _say = open_answers()
    sys.exit(run(lambda: measure(_tries, _say)))
