"""Who calls the actors of the town meanwhile, and what is looked at in the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors import actor_ref
from actors.errors import ActorError
from actors.ref import ActorRef
from cluster.client import Client
from tests.chaos.history import History, Op
from tests.cluster.house import calling_from

COUNTERS = [f"tally-{number}" for number in range(5)]
ACCOUNTS = [f"account-{number}" for number in range(6)]
HERALDS = [f"herald-{number}" for number in range(3)]
BELLS = [f"bell-{number}" for number in range(4)]

TIMEOUT = 4.0
"""Of an attempt, in seconds: shorter than most faults, so that there are unknown outcomes."""
LAST_TIMEOUT = 20.0
LAST_ATTEMPTS = 6
TICK = 1.0

HANDLERS = {"add": "add", "pay": "pay", "say": "say", "tell": "tell", "arm": "arm", "tick": "arm", "stop": "stop"}


class Workload:
    """Callers, each with one call at a time, by changing clients."""

    def __init__(self, history: History, clients: Sequence[Client], seed: int) -> None:
        self._history = history
        self._clients = clients
        self._seed = seed
        self._enough = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; the bells' ticks are set when this returns."""
        rng = random.Random(f"{self._seed} ticks")
        await asyncio.gather(*(self._call("tick", bell, rng, "tick", TICK, TICK) for bell in BELLS))
        callers: list[tuple[Callable[[random.Random], Awaitable[None]], int]] = [
            (self._count, 6), (self._pay, 3), (self._speak, 3), (self._arm, 1),
        ]  # fmt: skip
        for caller, times in callers:
            for number in range(times):
                rng = random.Random(f"{self._seed} {caller.__name__} {number}")
                self._tasks.append(asyncio.create_task(self._go_on(caller, rng)))

    async def _go_on(self, caller: Callable[[random.Random], Awaitable[None]], rng: random.Random) -> None:
        while not self._enough.is_set():
            await caller(rng)
            await asyncio.sleep(rng.uniform(0, 0.1))  # the load, not a wait

    async def stop(self) -> None:
        """Begin nothing new, and return when what was begun has ended."""
        self._enough.set()
        await asyncio.gather(*self._tasks)

    def raise_errors(self) -> None:
        """Let the run end if the workload itself is broken."""
        for task in self._tasks:
            if task.done():
                task.result()

    # -- the callers ---------------------------------------------------------------------------------------------------

    async def _count(self, rng: random.Random) -> None:
        address = rng.choice(COUNTERS)
        if rng.random() < 0.7:
            await self._call("add", address, rng)
        else:
            await self._read(address, rng)

    async def _pay(self, rng: random.Random) -> None:
        giver, taker = rng.sample(ACCOUNTS, 2)
        await self._call("pay", giver, rng, taker, rng.randint(1, 100), f"{len(self._history.ops)}")

    async def _speak(self, rng: random.Random) -> None:
        herald = rng.choice(HERALDS)
        if rng.random() < 0.2:
            await self._call("tell", herald, rng, rng.randint(5, 40))
        else:
            await self._call("say", herald, rng, rng.randint(1, 3))

    async def _arm(self, rng: random.Random) -> None:
        name = f"alarm{len(self._history.ops)}"
        await self._call("arm", rng.choice(BELLS), rng, name, rng.choice([0.2, 1.0, 3.0, 8.0]))

    # -- one operation -------------------------------------------------------------------------------------------------

    async def _call(self, kind: str, address: str, rng: random.Random, *args: object) -> None:
        """Call until the outcome is known; leave some unknown ones for the end."""
        op = self._history.start(kind, address, *args)
        while not await self.attempt(op, rng.choice(self._clients), timeout=TIMEOUT):
            if self._enough.is_set() or rng.random() < 0.2:
                return
            await asyncio.sleep(rng.uniform(0, 0.2))

    async def attempt(self, op: Op, client: Client, *, timeout: float) -> bool:
        """Call once, with the operation as idempotency key; whether its outcome is known now."""
        op.attempts += 1
        ref = actor_ref(op.address).options(timeout=timeout, idempotency_key=op.id)
        try:
            with calling_from(client):
                self._history.succeeded(op, await _invoke(ref, op))
        except Exception as error:  # what is no ActorError is a finding of its own
            self._history.failed(op, error)
        return op.outcome not in ("pending", "unknown")

    async def _read(self, address: str, rng: random.Random) -> None:
        op = self._history.start("read", address)
        try:
            with calling_from(rng.choice(self._clients)):
                self._history.succeeded(op, await actor_ref(address).options(timeout=TIMEOUT).read())
        except ActorError as error:
            self._history.failed(op, error)
            op.ended = self._history.now()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Repeat every call whose outcome is unknown, until it is known or has been tried often enough."""
        doubtful = [op for op in self._history.ops if op.outcome in ("pending", "unknown") and op.kind in HANDLERS]
        await asyncio.gather(*(self._settle(op) for op in doubtful))

    async def _settle(self, op: Op) -> None:
        for attempt in range(LAST_ATTEMPTS):
            client = self._clients[attempt % len(self._clients)]
            if await self.attempt(op, client, timeout=LAST_TIMEOUT):
                return

    async def ask(self, address: str, handler: str = "read", *args: object) -> Any:
        """An answer in the end, when nothing is wrong any more: raises what an actor raises that does not answer."""
        with calling_from(self._clients[0]):
            return await getattr(actor_ref(address).options(timeout=LAST_TIMEOUT), handler)(*args)


def _invoke(ref: ActorRef, op: Op) -> Awaitable[Any]:
    answer: Awaitable[Any] = getattr(ref, HANDLERS[op.kind])(*op.args)
    return answer
