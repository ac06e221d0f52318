"""Those who read channels: they leave and come back, and must see every entry once, in order, when it is durable."""

import asyncio
import random
from contextlib import aclosing, suppress

from actors import ActorError, Event, actor_ref
from actors.records import item_key
from tests.simulation.store import SharedStore
from tests.simulation.subjects import Stage

CHANNELS = [
    *((address, channel) for address in ("author-a", "author-b") for channel in ("output", "tale", "draft")),
    ("scrap-a", "output"),
]


class Reader:
    """One reader of one channel, from the beginning."""

    def __init__(self, stage: Stage, store: SharedStore, client: str, seed: random.Random) -> None:
        self.history = stage.history
        self.store = store
        self.random = seed
        self.address, self.channel = seed.choice(CHANNELS)
        self.name = f"{client} reads {self.address}/{self.channel}"
        self.steady = seed.random() < 0.5
        self.events: list[Event] = []
        self.running = True

    async def run(self) -> None:
        await asyncio.sleep(self.random.random() * 3)
        while self.running:
            with suppress(ActorError):
                await self._follow()
            await asyncio.sleep(self.random.random() * (0.1 if self.steady or self.history.phase == "final" else 3.0))

    async def _follow(self) -> None:
        after = self.events[-1].offset if self.events else None
        async with aclosing(actor_ref(self.address).channel(self.channel).subscribe(after=after)) as events:  # type: ignore[type-var]
            async for event in events:
                self._see(event)
                if not self.steady and self.history.phase != "final" and self.random.random() < 0.2:
                    return

    def _see(self, event: Event) -> None:
        before = self.events[-1] if self.events else None
        expected = before.offset + 1 if before is not None else 0
        erased = self.address.startswith("scrap")
        if event.kind == "closed":
            if not erased:
                self._violate("a channel ends when it is deleted", expected="no end", actual=str(event))
        elif event.offset < expected or (event.offset > expected and not erased):
            self._violate("readers see every entry once, in order", expected=f"offset {expected}", actual=str(event))
        elif not erased and item_key(self.channel, event.offset) not in self.store.rows(self.address, b"\x81"):
            self._violate("readers see what is durable", expected="an entry of the store", actual=str(event))
        self.events.append(event)

    def _violate(self, check: str, *, expected: str, actual: str) -> None:
        self.history.violate(check, self.name, address=self.address, expected=expected, actual=actual)
