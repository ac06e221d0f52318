"""This project with a store that syncs to disk: callers and silo in one process."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable

from benchmarks.durable_app import Worker
from benchmarks.load import Call
from benchmarks.peer import Caller, Peer, Place, Served, nothing_to_serve
from cluster import Silo

ACTORS = 256
SENDS = 10  # to one actor, before its answer is waited for


class DurableSiloPeer(Peer):
    """A silo in the process of its callers."""

    def serve(self, place: Place) -> contextlib.AbstractAsyncContextManager[Served]:
        """Nothing: the callers' process is the silo."""
        return nothing_to_serve()

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """A silo with an SQLite file of its own."""
        async with durable_silo():
            yield Caller(works())


@contextlib.asynccontextmanager
async def durable_silo() -> AsyncIterator[Silo]:
    """A silo with a new SQLite file."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        async with Silo([Worker], listen="127.0.0.1:0", store=f"sqlite:///{folder}/state.db") as silo:
            yield silo


def works() -> dict[str, Call]:
    """The calls that any runtime of this project makes, through references alone."""
    known = [Worker.ref(str(number)) for number in range(ACTORS)]

    def turn(number: int) -> Awaitable[object]:
        return known[number % ACTORS].count(1)

    told = [ref.options(headers={"$watch": "1"}) for ref in known]

    def turn_told(number: int) -> Awaitable[object]:
        return told[number % ACTORS].count(1)

    def turn_later(number: int) -> Awaitable[object]:
        return known[number % ACTORS].count_later(1)

    async def send(number: int) -> object:
        return await known[number % ACTORS].count.send(1)

    async def send_later(number: int) -> object:
        ref = known[number % ACTORS]
        for _ in range(SENDS - 1):
            await ref.count_later.send(1)
        return await ref.count_later(1)  # runs after them: nothing is left for later

    def steps(count: int) -> Call:
        return lambda number: known[number % ACTORS].steps(count)

    def parallel(number: int) -> Awaitable[object]:
        return known[number % ACTORS].parallel(10)

    def stream(number: int) -> Awaitable[object]:
        return known[number % ACTORS].dictate(100)

    return {
        "turn": turn,
        "turn_told": turn_told,
        "turn_later": turn_later,
        "send": send,
        "send_10_later": send_later,
        "steps_1": steps(1),
        "steps_10": steps(10),
        "steps_100": steps(100),
        "parallel_10": parallel,
        "stream_100": stream,
    }


PEER = DurableSiloPeer()
