"""The actors of the workload: an app for ``silo start``. What steps do is noted in a file outside of the cluster."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from actors import Actor, StepInterrupted, actor_ref, handler
from tests.chaos.plants import plant
from tests.cluster.durable_actors import note

PAID = "paid"
"""The file that gets a line from each payment's step."""

plant(os.environ.get("CHAOS_PLANT", ""))


@dataclass
class Count:
    value: int = 0


class Tally(Actor):
    """A counter."""

    state: Count

    @handler
    async def add(self) -> int:
        self.state.value += 1
        return self.state.value

    @handler(readonly=True)
    async def read(self) -> int:
        return self.state.value


@dataclass
class Book:
    balance: int = 0
    paid: int = 0
    got: int = 0
    interrupted: list[str] = field(default_factory=list)
    """Payments in whose step the silo was lost."""


class Account(Actor):
    """Money that goes to others: a step, then a message that leaves with the turn."""

    state: Book

    @handler
    async def pay(self, to: str, amount: int, op: str) -> int:
        try:
            await self.step("approve", note, PAID, op, once=True)
        except StepInterrupted:
            self.state.interrupted.append(op)
        self.state.balance -= amount
        self.state.paid += 1
        await actor_ref(to).get.send(amount)
        return self.state.paid

    @handler
    async def get(self, amount: int) -> None:
        self.state.balance += amount
        self.state.got += 1

    @handler(readonly=True)
    async def read(self) -> Book:
        return self.state


@dataclass
class Spoken:
    said: int = 0
    told: int = 0


class Herald(Actor, public=True):
    """Publishes items that bear numbers of its own, and streams."""

    state: Spoken

    @handler
    async def say(self, count: int) -> int:
        for _ in range(count):
            await self.publish({"said": self.state.said})
            self.state.said += 1
        return self.state.said

    @handler
    async def tell(self, count: int) -> int:
        """Items of one stream, which a crash may cut and another silo goes on with."""
        stream = self.stream_step("tell", tell, self.state.told, count, resume=go_on, channel="output")
        heard = [item async for item in stream]
        assert [item["at"] for item in heard] == [*range(count)], heard
        self.state.told += 1
        return self.state.told

    @handler(readonly=True)
    async def read(self) -> Spoken:
        return self.state


async def tell(number: int, count: int, first: int = 0) -> AsyncIterator[dict[str, int]]:
    for at in range(first, count):
        await asyncio.sleep(0.01)  # as a provider takes its time
        yield {"told": number, "at": at, "of": count}


def go_on(done: Sequence[object], number: int, count: int) -> AsyncIterator[dict[str, int]]:
    return tell(number, count, len(done))


@dataclass
class Rings:
    rung: list[str] = field(default_factory=list)
    """Names of reminders, as they came."""
    ticks: list[str] = field(default_factory=list)
    """Message ids of those that come again and again: each names the time that it is for."""


class Bell(Actor, idle_timeout=1.0):
    """Reminders, which have to wake it."""

    state: Rings

    @handler
    async def arm(self, name: str, after: float, every: float | None = None) -> int:
        await self.remind(name, after=after, every=every)
        return 0

    @handler
    async def stop(self, name: str) -> None:
        await self.cancel_reminder(name)

    async def on_reminder(self, name: str) -> None:
        if name == "tick":
            self.state.ticks.append(self.context.message_id)
        else:
            self.state.rung.append(name)

    @handler(readonly=True)
    async def read(self) -> Rings:
        return self.state
