"""Following one turn of an actor from wherever: what it publishes in its channel, and how it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple, TypeAlias

from actors import Event, actor_ref
from actors.ports import Store
from actors.turn_log import TURNS
from cluster.gateway.chat.turns import Run, TurnEvent, find_run, turn_event
from cluster.gateway.history import History
from cluster.gateway.hub import Follower, Hub
from cluster.gateway.json_values import UNREADABLE, to_json

Patience: TypeAlias = Callable[[], float]

_AT_ONCE: Final = 256


class Begin(NamedTuple):
    """The turn has begun that answers: that of the message that was sent, or one that ran and was handed it."""

    message_id: str


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


Happening: TypeAlias = Begin | Piece | Reset | End


async def follow(
    store: Store, hub: Hub, run: Run, *, patience: Patience, after: int = -1
) -> AsyncGenerator[Sequence[Happening], None]:
    """A ``Begin``, then everything that a turn publishes from its beginning, in order, and at last its one ``End``.

    What was taken back before this begins is left out; so is that it was, except where the reader has seen it: up to
    offset ``after``. An empty batch says that nothing has come for as many seconds as ``patience`` gives. The actor may
    move and silos may die meanwhile: that is a pause. Raises ``OffsetGone`` if the channel does not retain all of it
    any more, ``EOFError`` if the actor is deleted, ``ClusterUnavailable`` if it cannot be reached for long or this silo
    leaves.
    """
    ref = actor_ref(run.address)
    async with AsyncExitStack() as exits:
        begin = run.first.offset if run.first is not None else 0
        turns = await exits.enter_async_context(hub.follow(ref.channel(TURNS), begin - 1 if begin else None))
        progress = _Progress(turns, run, patience)
        while not (progress.started or progress.end or progress.into):
            if not await progress.advance():
                yield ()
        if not progress.into:
            yield [Begin(run.message_id)]
            history = History(store, run.address, run.channel)
            first = progress.first((await history.head())[1])
            entries = await exits.enter_async_context(hub.follow(ref.channel(run.channel), first - 1))
            taken_back = await _taken_back(history, run, first, after)
            async for batch in _join(entries, progress, run, patience):
                yield [found for found in batch if not taken_back.covers(found)]
            return
    other = await find_run(store, run.address, run.channel, message_id=progress.into)
    if other is None:
        raise EOFError
    async with contextlib.aclosing(follow(store, hub, other, patience=patience, after=after)) as batches:
        async for batch in batches:
            yield batch


class _Progress:
    """What ``$turns`` has said of the turn so far."""

    def __init__(self, turns: Follower, run: Run, patience: Patience) -> None:
        self._turns = turns
        self._run = run
        self._patience = patience
        self.started = run.started
        self.end: TurnEvent | None = run.end
        self.into = ""

    async def advance(self) -> bool:
        """Read on; whether something came."""
        try:
            events = await self._turns.next(self._patience())
        except TimeoutError:
            return False
        for event in events:
            found = turn_event(event) if event.turn == self._run.message_id else None
            if found is None:
                continue
            if found.event == "started" and self.started is None:
                self.started = found
            elif found.final:
                self.end = found
            elif found.into:
                self.into = found.into
        return True

    def first(self, floor: int) -> int:
        """Where the turn can have begun to publish. ``floor``: where channels begin that were not there before it."""
        if self.started is not None:
            return self.started.channels.get(self._run.channel, floor)
        assert self.end is not None
        return min((first for first, _ in self.end.published.get(self._run.channel, [])), default=floor)

    def is_over(self, seen: int) -> bool:
        """Whether the turn has ended, and all that it has published is below an offset."""
        return self.end is not None and all(
            seen >= behind for _, behind in self.end.published.get(self._run.channel, [])
        )


async def _join(
    entries: Follower, progress: _Progress, run: Run, patience: Patience
) -> AsyncIterator[Sequence[Happening]]:
    """What comes in the channel, until ``$turns`` says that all of the turn has come."""
    seen = 0  # behind the last entry that was read
    reading: asyncio.Task[list[Event]] | None = None
    advancing: asyncio.Task[bool] | None = None
    try:
        while not progress.is_over(seen):
            if reading is None and not entries.ended:
                reading = asyncio.create_task(entries.next(patience()))
            if advancing is None and progress.end is None:
                advancing = asyncio.create_task(progress.advance())
            tasks = {task for task in (reading, advancing) if task is not None}
            if not tasks:
                raise EOFError
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                came, reading = _came(reading), None
                seen = came[-1].offset + 1 if came else seen
                yield [found for event in came if (found := _happening(event, run)) is not None]
            if advancing is not None and advancing.done():
                came_on, advancing = advancing.result(), None
                if not came_on and entries.ended:
                    yield ()
    finally:
        for task in (reading, advancing):
            if task is not None:
                task.cancel()
    assert progress.end is not None
    yield [End(progress.end.event, progress.end.result, progress.end.reason)]


def _came(reading: "asyncio.Task[list[Event]]") -> list[Event]:
    try:
        return reading.result()
    except TimeoutError:
        return []


def _happening(event: Event, run: Run) -> Happening | None:
    if event.turn != run.message_id:
        return None
    if event.kind == "reset":
        return Reset(event.offset, event.data)
    return Piece(event.offset, _tellable(event.data)) if event.kind == "item" else None


def _tellable(value: object) -> object:
    """The value, if JSON can say it."""
    if not isinstance(value, str):
        try:
            to_json(value)
        except ValueError:
            return UNREADABLE
    return value


class _TakenBack:
    """What resets that are known already have made void, for a reader who comes again from offset ``after``."""

    def __init__(self, resets: list[Reset], after: int) -> None:
        self._resets = resets
        self._after = after

    def covers(self, found: Happening) -> bool:
        if isinstance(found, End | Begin):
            return False
        if isinstance(found, Reset):
            return found in self._resets and not found.first <= self._after <= found.offset
        return any(reset.first <= found.offset < reset.offset for reset in self._resets)


async def _taken_back(history: History, run: Run, first: int, after: int) -> _TakenBack:
    """The resets of the turn that the channel holds from an offset on."""
    head, _ = await history.head()
    resets: list[Reset] = []
    for begin in range(max(first, head.first), head.next, _AT_ONCE):
        events = await history.read(begin, min(begin + _AT_ONCE, head.next), limit=_AT_ONCE)
        found = (_happening(event, run) for event in events)
        resets += [reset for reset in found if isinstance(reset, Reset)]
    return _TakenBack(resets, after)
