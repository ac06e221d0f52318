"""The app of both releases: it uses what they both have."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors import Actor, handler

FOLDER = Path(os.environ["TEST_FOLDER"])


def note(what: str) -> None:
    """Count outside of the system what bodies did."""
    with (FOLDER / "notes").open("a") as notes:
        notes.write(f"{what}\n")


@dataclass
class Balance:
    value: int = 0
    heard: list[str] = field(default_factory=list)


class Overdrawn(Exception):
    """An error of the app's own."""


class Account(Actor, type="account"):
    """Counts, and publishes each sum."""

    state: Balance

    @handler
    async def add(self, amount: int) -> int:
        self.state.value += amount
        await self.publish(self.state.value)
        return self.state.value

    @handler
    async def value(self) -> int:
        return self.state.value

    @handler
    async def pay(self, amount: int, target: str) -> None:
        """Move money to another account, by the outbox."""
        self.state.value -= amount
        await Account.ref(target.partition("-")[2]).add.send(amount)

    @handler
    async def count(self, up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number

    @handler
    async def same(self, value: Any) -> Any:
        return value

    @handler
    async def fail(self) -> None:
        raise Overdrawn("by much")

    @handler
    async def call_later(self, name: str, seconds: float) -> None:
        await self.remind(name, after=seconds)

    @handler
    async def heard(self) -> list[str]:
        return self.state.heard

    async def on_reminder(self, name: str) -> None:
        self.state.heard.append(name)


class Worker(Actor, type="worker"):
    """Works in steps, the second of which takes as long as the test wants."""

    state: Balance

    @handler
    async def work(self, job: str) -> str:
        plan = await self.step("plan", self._plan, job)
        result = await self.step("draft", self._draft, job)
        self.state.heard.append(job)
        await self.publish(job)
        return f"{plan}, {result}"

    @handler(readonly=True)
    async def done(self) -> list[str]:
        return self.state.heard

    async def _plan(self, job: str) -> str:
        note(f"plan of {job}")
        return f"plan of {job}"

    async def _draft(self, job: str) -> str:
        note(f"draft of {job}")
        while not (FOLDER / f"go-{job}").exists():  # noqa: ASYNC110  # the test is another process
            await asyncio.sleep(0.01)
        return f"draft of {job}"
