"""An actor whose channels keep little and are closed, and those who read them: nothing is skipped without a word."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import TypeAlias

import msgspec

from actors import ActorError, ChannelClosed, Event, OffsetGone, Retention, actor_ref, handler
from actors.records import CHANNEL, ChannelHead, ChannelItem
from tests.simulation.history import History
from tests.simulation.readers import Reader
from tests.simulation.store import SharedStore
from tests.simulation.subjects import STAGE, Ledger, Stage

BRIEF = "brief-a"
KEPT = Retention(items=12, bytes=60)
ItemsOf: TypeAlias = Callable[[SharedStore, str, str], list[tuple[int, ChannelItem]]]
CHANNELS = ["output", "output", "part0", "part1", "part2"]
"""The parts are closed at some time."""


class Brief(Ledger, persist="turn", idle_timeout=1.5, channel_retention=KEPT):
    """Publishes to channels of which little is retained."""

    @handler
    async def publish_some(self, op: str, channel: str, count: int, closes: bool, pause: float) -> list[int]:
        """Publish items with the turn's commit, and close the channel with it."""
        STAGE.get().history.work.briefs[op] = channel, count, closes
        with suppress(ChannelClosed):
            for number in range(count):
                await self.channel(channel).publish(f"{op}.{number}")
            if closes:
                await self.channel(channel).close()
        if pause:
            await asyncio.sleep(pause)
        return self._add(op)


def head_of(store: SharedStore, channel: str) -> ChannelHead:
    """Where a channel begins and ends, as it is stored."""
    key = CHANNEL + channel.encode()
    rows = store.rows(BRIEF, key)
    return msgspec.msgpack.decode(rows[key], type=ChannelHead) if key in rows else ChannelHead(0)


class BriefReader(Reader):
    """Reads a channel of which little is retained; where it is told that something is gone, it goes on behind that."""

    def __init__(self, stage: Stage, store: SharedStore, client: str, seed: random.Random) -> None:
        super().__init__(stage, store, client, seed)
        self.address, self.channel = BRIEF, seed.choice(CHANNELS)
        self.name = f"{client} reads {self.address}/{self.channel}"
        self.expected: int | None = None

    async def run(self) -> None:
        await asyncio.sleep(self.random.random() * 3)
        while self.running and not self.ended:
            try:
                await self._follow()
            except OffsetGone as gone:
                self._jump(gone.first)
            except ActorError:
                pass
            await asyncio.sleep(self.random.random() * (0.1 if self.steady or self.history.phase == "final" else 3.0))

    @property
    def ended(self) -> bool:
        """Whether the channel was closed."""
        return bool(self.events) and self.events[-1].kind == "closed"

    async def _follow(self) -> None:
        after = self.expected - 1 if self.expected is not None else None
        channel = actor_ref(self.address).channel(self.channel)
        async with aclosing(channel.subscribe(after=after)) as events:  # type: ignore[type-var]
            async for event in events:
                self._see(event)
                if not self.steady and self.history.phase != "final" and self.random.random() < 0.2:
                    return

    def _jump(self, first: int) -> None:
        """What was expected is gone: it must be so, and what is said to be there must not have been skipped."""
        head = head_of(self.store, self.channel)
        if self.expected is None or not self.expected < first <= head.first:
            self._violate(
                "what is said to be gone is", expected=f"{self.expected} < first <= {head.first}", actual=str(first)
            )
        self.history.note(f"{self.name}: {self.expected} to {first - 1} are gone", address=self.address)
        self.expected = first

    def _see(self, event: Event) -> None:
        if self.expected not in (None, event.offset):
            self._violate(
                "readers see every entry once, in order", expected=f"offset {self.expected}", actual=str(event)
            )
        elif event.offset >= head_of(self.store, self.channel).next:
            self._violate("readers see what is durable", expected="an entry of the store", actual=str(event))
        elif event.kind == "closed" and event.data is not True:
            self._violate("a channel ends when it is closed", expected="no deletion", actual=str(event))
        self.expected = event.offset + 1
        self.events.append(event)


def check_briefs(history: History, store: SharedStore, effects: list[str], items_of: ItemsOf) -> None:
    """What is retained is the end of what was published, no less than the limits say and no more than ``items``."""
    for channel in sorted(set(CHANNELS)):
        told: list[object] = []
        for op in effects:
            found, count, closes = history.work.briefs.get(op, ("", 0, False))
            if found == channel and (not told or told[-1] is not True):
                told += [f"{op}.{number}" for number in range(count)]
                told += [True] * closes
        head, items = head_of(store, channel), items_of(store, BRIEF, channel)
        kept = [msgspec.msgpack.decode(item.data) for _, item in items]
        size = sum(len(item.data) for _, item in items)
        assert KEPT.items is not None
        assert KEPT.bytes is not None
        enough = head.first == 0 or len(items) == KEPT.items or size >= KEPT.bytes
        if (
            [offset for offset, _ in items] != list(range(head.first, head.next))
            or head.next != len(told)
            or kept != told[head.first :]
            or len(items) > KEPT.items
            or not enough
        ):
            history.violate(
                "what is retained is the end of what was published", channel, address=BRIEF,
                expected=f"{len(told)} entries that end with {told[-KEPT.items:]}", actual=f"{head}: {items}",
            )  # fmt: skip
