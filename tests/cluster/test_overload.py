"""Far more comes than one silo can do: what waits is bounded, every call ends, and a polite client is served.

``benchmarks.overload`` measures the same for a minute. Here only what was promised is looked at, and no speed.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from actors import Actor, handler
from actors.errors import MailboxFull
from actors.settings import Settings
from cluster import Silo, connect
from cluster.client import Client
from tests.cluster.house import calling_from
from tests.cluster.waiting import eventually

ACTORS = 4
MAX_QUEUE = 50
LIMITS = Settings(max_calls=180, max_waiting_bytes=200_000, max_held_bytes=200_000)
FLOOD = 2000  # calls of each greedy client: all at once, ten times what there is room for
PAYLOAD = bytes(500)


class Worker(Actor, persist="never", max_queue=MAX_QUEUE):
    """Does one thing at a time, each when it is let."""

    permits: asyncio.Semaphore
    worked: list[bytes]
    """What was worked on, here and by the durable ones."""

    @handler
    async def work(self, data: bytes) -> int:
        await self.permits.acquire()
        self.worked.append(data)
        return len(data)


@dataclass
class Total:
    calls: int = 0


class Counting(Actor, max_queue=MAX_QUEUE):
    """The same, durably."""

    state: Total

    @handler
    async def work(self, data: bytes) -> int:
        await Worker.permits.acquire()
        Worker.worked.append(data)
        self.state.calls += 1
        return len(data)


@pytest.fixture
async def silo(exits: AsyncExitStack) -> Silo:
    Worker.permits, Worker.worked = asyncio.Semaphore(0), []
    return await exits.enter_async_context(Silo([Worker, Counting], settings=LIMITS))


async def client_of(silo: Silo, exits: AsyncExitStack) -> Client:
    """Has larger limits itself, as that of another release or language may."""
    return await exits.enter_async_context(connect(silo.grpc, settings=Settings(max_calls=100_000)))


def is_bounded(silo: Silo) -> bool:
    """Whether nothing that waits in the silo is above its limit."""
    load, activations = silo.runtime.load(), silo.runtime.activations.values()
    assert load.calls <= LIMITS.max_calls
    assert load.waiting_bytes <= LIMITS.max_waiting_bytes + len(PAYLOAD) + 1000
    assert load.held_bytes <= LIMITS.max_held_bytes + len(PAYLOAD) + 1000
    assert all(activation.waiting <= MAX_QUEUE + MAX_QUEUE // 8 for activation in activations)
    return True


@pytest.mark.parametrize("actor", [Worker, Counting])
async def test_greedy_clients_leave_room_for_a_polite_one(
    silo: Silo, exits: AsyncExitStack, actor: type[Worker] | type[Counting]
) -> None:
    greedy, polite = [await client_of(silo, exits) for _ in range(2)], await client_of(silo, exits)
    outcomes: Counter[str] = Counter()

    async def call(number: int) -> None:
        try:
            assert await actor.ref(str(number % ACTORS)).work(PAYLOAD) == len(PAYLOAD)
            outcomes["answered"] += 1
        except MailboxFull:
            outcomes["refused"] += 1

    async with asyncio.TaskGroup() as calls:
        for client in greedy:
            with calling_from(client):
                for number in range(FLOOD):
                    calls.create_task(call(number))
        await eventually("most are refused", lambda: is_bounded(silo) and outcomes["refused"] > FLOOD)
        assert outcomes["answered"] == 0
        with calling_from(polite):
            mine = [asyncio.create_task(actor.ref(str(number)).work(b"mine")) for number in range(ACTORS)]
        name = polite._runtime.directory.silo if polite._runtime is not None else ""
        await eventually("its calls are there", lambda: silo.runtime.room.calls.of(name) == ACTORS)
        while Worker.worked.count(b"mine") < ACTORS:
            permitted = len(Worker.worked) + 1
            Worker.permits.release()
            await eventually("one is worked on", lambda: is_bounded(silo) and len(Worker.worked) == permitted)  # noqa: B023
        assert len(Worker.worked) <= 5 * ACTORS, "it waits behind all that the greedy ones have waiting"
        assert await asyncio.gather(*mine) == [4] * ACTORS
        served = len(Worker.worked)
        for _ in range(2 * FLOOD):
            Worker.permits.release()
    assert outcomes["answered"] + outcomes["refused"] == 2 * FLOOD
    assert outcomes["answered"] <= LIMITS.max_calls + served
    with calling_from(polite):
        assert await actor.ref("0").work(b"after") == 5
    await eventually("nothing is left", lambda: (load := silo.runtime.load()).calls == load.waiting_bytes == 0)
    assert silo.runtime.load().call_bytes == 0


async def test_a_process_bounds_its_own_calls(silo: Silo, exits: AsyncExitStack) -> None:
    client = await exits.enter_async_context(connect(silo.grpc, settings=Settings(max_calls=9)))
    with calling_from(client):
        calls = [asyncio.create_task(Worker.ref("0").work(PAYLOAD)) for _ in range(20)]
        await eventually("some are refused", lambda: sum(call.done() for call in calls) == 12)
        with pytest.raises(MailboxFull, match="8 of at most 9 calls or streams of this process are under way"):
            await Worker.ref("1").work(PAYLOAD)
        for _ in range(9):
            Worker.permits.release()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert Counter(map(type, outcomes)) == {int: 8, MailboxFull: 12}
        assert await Worker.ref("1").work(PAYLOAD) == len(PAYLOAD)


async def test_who_called_may_always_stop_it(silo: Silo, exits: AsyncExitStack) -> None:
    greedy = await client_of(silo, exits)
    with calling_from(greedy):
        calls = [asyncio.create_task(Worker.ref(str(number % ACTORS)).work(PAYLOAD)) for number in range(FLOOD)]
        await eventually("most are refused", lambda: sum(call.done() for call in calls) > FLOOD // 2)
        assert await Worker.ref("0").interrupt("enough")
        for _ in range(FLOOD):
            Worker.permits.release()
        await asyncio.gather(*calls, return_exceptions=True)
