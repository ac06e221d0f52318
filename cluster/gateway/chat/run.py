"""Following one turn of an actor from wherever: what it publishes in its channel, and how it ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple, TypeAlias

import msgspec

from actors import Event, actor_ref
from actors.channel_log import read_items
from actors.ports import Store
from actors.turn_log import TURNS
from cluster.gateway.chat.turns import Run, TurnEvent, turn_event
from cluster.gateway.hub import Follower, Hub

_AT_ONCE: Final = 256


class Piece(NamedTuple):
    """An item that the turn has published."""

    offset: int
    data: object


class Reset(NamedTuple):
    """The turn takes back what it has published from offset ``first`` on, up to this."""

    offset: int
    first: int


class End(NamedTuple):
    """The turn has ended: ``kind`` is "committed", "failed", "interrupted" or "parked"."""

    kind: str
    result: object = None
    reason: str = ""


Happening: TypeAlias = Piece | Reset | End


async def follow(
    store: Store, hub: Hub, run: Run, *, patience: float, after: int = -1
) -> AsyncGenerator[Sequence[Happening], None]:
    """Everything that a turn publishes from its beginning, in order, and at last its one ``End``.

    What was taken back before this begins is left out; so is that it was, except where the reader has seen it: up to
    offset ``after``. An empty batch says that nothing has come for ``patience`` seconds. The actor may move and silos
    may die meanwhile: that is a pause. Raises ``OffsetGone`` if the channel does not retain all of it any more,
    ``EOFError`` if the actor is deleted, ``ClusterUnavailable`` if it cannot be reached for long.
    """
    ref = actor_ref(run.address)
    async with AsyncExitStack() as exits:
        begin = run.first.offset if run.first is not None else 0
        turns = await exits.enter_async_context(hub.follow(ref.channel(TURNS), begin - 1 if begin else None))
        progress = _Progress(turns, run, patience)
        while progress.started is None and progress.end is None:
            if not await progress.advance():
                yield ()
        first = progress.first(run.channel)
        taken_back = await _taken_back(store, run, first, after)
        entries = await exits.enter_async_context(hub.follow(ref.channel(run.channel), first - 1 if first else None))
        async for batch in _join(entries, progress, run, patience):
            yield [piece for piece in batch if not taken_back.covers(piece)]


class _Progress:
    """What ``$turns`` has said of the turn so far."""

    def __init__(self, turns: Follower, run: Run, patience: float) -> None:
        self._turns = turns
        self._patience = patience
        self._message_id = run.message_id
        self.started = run.started
        self.end: TurnEvent | None = run.end

    async def advance(self) -> bool:
        """Read on; whether something came."""
        try:
            events = await self._turns.next(self._patience)
        except TimeoutError:
            return False
        for event in events:
            found = turn_event(event.offset, event.data) if event.kind == "item" else None
            if found is None or found.message_id != self._message_id:
                continue
            if found.event == "started" and self.started is None:
                self.started = found
            elif found.final:
                self.end = found
        return True

    def first(self, channel: str) -> int:
        """Where in the channel the turn can have begun to publish."""
        if self.started is not None:
            return self.started.channels.get(channel, 0)
        assert self.end is not None
        return self.end.published.get(channel, [(0, 0)])[0][0]

    def behind(self, channel: str) -> int:
        """The offset behind the last entry of a turn that has ended."""
        assert self.end is not None
        return max((behind for _, behind in self.end.published.get(channel, [])), default=0)


async def _join(
    entries: Follower, progress: _Progress, run: Run, patience: float
) -> AsyncIterator[Sequence[Happening]]:
    """What comes in the channel, until ``$turns`` says that all of the turn has come."""
    seen = 0  # behind the last entry that was read
    reading: asyncio.Task[list[Event]] | None = None
    advancing: asyncio.Task[bool] | None = None
    try:
        while progress.end is None or seen < progress.behind(run.channel):
            if reading is None:
                reading = asyncio.create_task(entries.next(patience))
            if advancing is None and progress.end is None:
                advancing = asyncio.create_task(progress.advance())
            await asyncio.wait({task for task in (reading, advancing) if task}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                came = _came(reading)
                reading = None
                yield [found for event in came if event.turn == run.message_id and (found := _happening(event))]
                seen = came[-1].offset + 1 if came else seen
            if advancing is not None and advancing.done():
                advancing.result()
                advancing = None
    finally:
        for task in (reading, advancing):
            if task is not None:
                task.cancel()
    end = progress.end
    yield [End(end.event, end.result, end.reason)]


def _came(reading: "asyncio.Task[list[Event]]") -> list[Event]:
    try:
        return reading.result()
    except TimeoutError:
        return []


def _happening(event: Event) -> Happening | None:
    if event.kind == "reset":
        return Reset(event.offset, event.data)
    return Piece(event.offset, event.data) if event.kind == "item" else None


class _TakenBack:
    """What resets that are known already have made void, for a reader who comes again from offset ``after``."""

    def __init__(self, resets: list[Reset], after: int) -> None:
        self._resets = resets
        self._after = after

    def covers(self, found: Happening) -> bool:
        if isinstance(found, End):
            return False
        if isinstance(found, Reset):
            return found in self._resets and not found.first <= self._after < found.offset
        return any(reset.first <= found.offset < reset.offset for reset in self._resets)


async def _taken_back(store: Store, run: Run, first: int, after: int) -> _TakenBack:
    """The resets that the channel holds from an offset on."""
    resets: list[Reset] = []
    while True:
        rows = await read_items(store, run.address, run.channel, first, 2**63, limit=_AT_ONCE)
        for offset, item in rows:
            if item.kind == "reset" and item.turn == run.message_id:
                resets.append(Reset(offset, msgspec.msgpack.decode(item.data, type=int)))
        if len(rows) < _AT_ONCE:
            return _TakenBack(resets, after)
        first = rows[-1][0] + 1
