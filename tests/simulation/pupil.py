"""An actor whose turns are stopped and steered all the time, and who reads what is left of what they published."""

import asyncio
import random
from collections.abc import AsyncIterator

from actors import Interrupted, handler
from tests.simulation.author import Author
from tests.simulation.readers import Reader
from tests.simulation.store import SharedStore
from tests.simulation.subjects import STAGE, Stage

PUPIL = "pupil-a"


class Pupil(Author, persist="turn", idle_timeout=1.5):
    """Takes its time, so that others can interrupt, roll back and steer it."""

    @handler
    async def toil(
        self, op: str, count: int, steps: list[tuple[str, bool, float, str]], pause: float, catches: bool
    ) -> list[int]:
        """Stream items, run steps and read what comes meanwhile. ``catches``: interrupted it makes a note and ends."""
        work = STAGE.get().history.work
        work.toils[op] = count
        try:
            items = self.stream_step("items", _items, op, count, pause, resume=_resumed, channel="output")
            async for _ in items:
                pass
            for step in steps:
                await self._step(op, *step)
                async for message in self.steering():
                    self._add(message)
            if pause:
                await asyncio.sleep(pause)
        except Interrupted:
            if not catches:
                raise
            work.cut_short.add(op)
            await self._step(op, "note", once=False, pause=pause, sends_to="")
        return self._add(op)


class PupilReader(Reader):
    """Reads what its turns publish."""

    def __init__(self, stage: Stage, store: SharedStore, client: str, seed: random.Random) -> None:
        super().__init__(stage, store, client, seed)
        self.address, self.channel = PUPIL, "output"
        self.name = f"{client} reads {self.address}/{self.channel}"


async def _items(op: str, count: int, pause: float) -> AsyncIterator[str]:
    async for item in _resumed([], op, count, pause):
        yield item


async def _resumed(had: list[str], op: str, count: int, pause: float) -> AsyncIterator[str]:
    for number in range(len(had), count):
        if pause:
            await asyncio.sleep(pause / 4)
        yield f"{op}.{number}"
