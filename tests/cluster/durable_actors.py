"""Actors that note what they do in files outside of the cluster: an app for ``silo start``.

A file gets a line whenever a body runs, so it tells what ran once, twice or not at all, whatever was killed.
"""

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors import Actor, StepInterrupted, handler
from tests.cluster.house_actors import by_name, silo_of


def note(file: str, line: str) -> None:
    """Append a line, in one write, to a file of the folder that the test has named."""
    path = Path(os.environ["TEST_FOLDER"]) / file
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def noted(folder: Path, file: str) -> list[str]:
    """The lines of such a file."""
    path = folder / file
    return path.read_text().splitlines() if path.exists() else []


@dataclass
class Entries:
    entries: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    """Entries in whose step the silo was lost."""


class Register(Actor, placement=by_name):
    """Notes each entry in its state, and at most once in the file ``<key>.register``."""

    state: Entries

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.slow = False

    @handler
    async def enter(self, entry: str) -> int:
        try:
            await self.step("note", note, f"{self.key}.register", entry, once=True)
        except StepInterrupted:
            self.state.interrupted.append(entry)
        self.state.entries.append(entry)
        return len(self.state.entries)

    @handler
    async def enter_unseen(self, entry: str) -> int:
        """Without a step: no reader of its channels hears of it."""
        self.state.entries.append(entry)
        return len(self.state.entries)

    @handler
    async def enter_slowly(self, entry: str) -> int:
        """Changes the state, then waits for ``finish``."""
        self.state.entries.append(entry)
        self.slow = True
        await self.gate.wait()
        return len(self.state.entries)

    @handler(control=True)
    async def finish(self) -> None:
        self.gate.set()

    @handler(control=True)
    async def is_slow(self) -> bool:
        return self.slow

    @handler
    async def publish_all(self, channel: str, items: list[Any]) -> None:
        for item in items:
            await self.channel(channel).publish(item)

    @handler
    async def remind_me(self, name: str, after: float, every: float | None = None) -> None:
        await self.remind(name, after=after, every=every)

    async def on_reminder(self, name: str) -> None:
        self.state.entries.append(f"{name} on {silo_of(self)}")

    @handler(readonly=True)
    async def read(self) -> Entries:
        return self.state

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)


class Courier(Actor, placement=by_name):
    """Sends numbers to a register."""

    state: list[int]

    @handler
    async def carry(self, to: Any, first: int, count: int) -> int:
        for number in range(first, first + count):
            await to.enter.send(str(number))
            self.state.append(number)
        return len(self.state)

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)


class Alarm(Actor, placement=by_name, idle_timeout=0.2):
    """Goes to sleep at once. Notes each reminder as ``<name> <message id> <silo>`` in the file ``<key>.alarm``."""

    state: list[str]

    @handler
    async def set(self, name: str, after: float, every: float | None = None) -> None:
        await self.remind(name, after=after, every=every)

    @handler
    async def cancel(self, name: str) -> None:
        await self.cancel_reminder(name)

    async def on_reminder(self, name: str) -> None:
        note(f"{self.key}.alarm", f"{name} {self.context.message_id} {silo_of(self)}")
        self.state.append(name)

    @handler(readonly=True)
    async def fired(self) -> list[str]:
        return self.state
