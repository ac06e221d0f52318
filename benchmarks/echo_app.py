"""The app under the benchmarks: actors that do next to nothing."""

import asyncio
from dataclasses import dataclass

from actors import Actor, handler


class Echo(Actor, persist="never", idle_timeout=3600):
    """Answers with what it got. Has no state."""

    @handler
    async def echo(self, data: bytes) -> bytes:
        """The argument, in a handler that never suspends."""
        return data

    @handler
    async def echo_later(self, data: bytes) -> bytes:
        """The argument, after giving the loop a turn: most handlers wait for something."""
        await asyncio.sleep(0)
        return data


@dataclass
class Nothing:
    """A state without fields."""


class Keeper(Actor, idle_timeout=3600):
    """Has a durable state, which is empty and never changes."""

    state: Nothing

    @handler
    async def echo(self, data: bytes) -> bytes:
        """The argument."""
        return data
