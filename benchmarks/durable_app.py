"""The app under ``benchmarks.durable``: turns that change something, steps, streams and reminders."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

from actors import Actor, handler

DELTA = "x" * 20
ENTRY = "x" * 97  # 100 bytes in a list, with its length
CHANNEL = "output"


@dataclass
class Tally:
    """A small state."""

    turns: int = 0


class Worker(Actor, idle_timeout=3600):
    """Each of its turns changes its state."""

    state: Tally

    @handler
    async def count(self, amount: int) -> int:
        """A handler that cannot suspend."""
        self.state.turns += amount
        return self.state.turns

    @handler
    async def count_later(self, amount: int) -> int:
        """A handler that waits for something, as most do."""
        await asyncio.sleep(0)
        self.state.turns += amount
        return self.state.turns

    @handler
    async def steps(self, number: int) -> int:
        """Steps that do nothing, one after the other."""
        for _ in range(number):
            self.state.turns = await self.step("add", _add, self.state.turns)
        return self.state.turns

    @handler
    async def parallel(self, number: int) -> int:
        """Steps that do nothing, side by side."""
        found = await asyncio.gather(*(self.step("add", _add, self.state.turns) for _ in range(number)))
        self.state.turns = max(found)
        return self.state.turns

    @handler
    async def dictate(self, number: int) -> int:
        """A stream whose deltas are journaled and published while they come."""
        async for _ in self.stream_step("draft", _deltas, number, channel=CHANNEL):
            self.state.turns += 1
        return self.state.turns


async def _add(value: int) -> int:
    return value + 1


async def _deltas(number: int) -> AsyncIterator[str]:
    for _ in range(number):
        await asyncio.sleep(0)
        yield DELTA


@dataclass
class History:
    """A state that grows at its end."""

    entries: list[str] = field(default_factory=list)


class Listing(Actor, idle_timeout=3600):
    """Keeps everything it was told."""

    state: History

    @handler
    async def fill(self, size: int) -> None:
        """Begin anew with so many bytes."""
        self.state.entries = [ENTRY] * (size // 100)

    @handler
    async def change(self, number: int) -> None:
        """One entry more."""
        self.state.entries.append(f"{number:097}")


@dataclass
class Fields:
    """A state that changes in place."""

    values: dict[str, str] = field(default_factory=dict)


class Form(Actor, idle_timeout=3600):
    """Keeps the last value of each of its fields."""

    state: Fields

    @handler
    async def fill(self, size: int) -> None:
        """Begin anew with so many bytes."""
        self.state.values = {f"field-{number:06}": ENTRY for number in range(size // 112)}

    @handler
    async def change(self, number: int) -> None:
        """Another value, of the same length, in one field after the other, but far apart."""
        name = f"field-{number * 7919 % len(self.state.values):06}"
        self.state.values[name] = f"{number:097}"


class Sleeper(Actor, idle_timeout=3600):
    """Wants to be woken later."""

    fired = 0

    @handler
    async def doze(self, seconds: float) -> None:
        """Set a reminder and go."""
        await self.remind("wake", after=timedelta(seconds=seconds))
        self.deactivate()

    async def on_reminder(self, name: str) -> None:
        """Count them all."""
        Sleeper.fired += 1
