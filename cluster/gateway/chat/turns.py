"""What ``$turns``, the system channel of an actor, says of the turns of a handler; read without waking the actor."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from actors.channel import Event
from actors.ports import Store
from actors.turn_log import TURNS
from cluster.gateway.history import History

FINAL: Final = frozenset({"committed", "failed", "interrupted", "parked"})

_AT_ONCE: Final = 128


class TurnEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of ``$turns``. ``offset`` is its own; the rest is as the engine has written it."""

    offset: int = -1
    event: str
    message_id: str
    handler: str = ""
    key: str = ""
    at: float = 0.0
    channels: dict[str, int] = {}
    """started: where the actor's channels ended."""
    published: dict[str, list[tuple[int, int]]] = {}
    """At the end: first offset, and the offset behind the last, of what the turn has published."""
    result: Any = None
    reason: str = ""
    into: str = ""
    """steered: the message whose turn has read this one, and answers it."""

    @property
    def final(self) -> bool:
        """Whether the turn has come to its end with it."""
        return self.event in FINAL


def turn_event(event: Event) -> TurnEvent | None:
    """The entry in an event of the channel, or None if it is about something else."""
    if event.kind != "item" or not isinstance(event.data, dict):
        return None
    try:
        return msgspec.convert({**event.data, "offset": event.offset}, TurnEvent)
    except msgspec.ValidationError:
        return None


async def backwards(store: Store, address: str) -> AsyncIterator[TurnEvent]:
    """The entries that are retained of an actor's ``$turns``, the newest first."""
    history = History(store, address, TURNS)
    head, _ = await history.head()
    end = head.next
    while end > head.first:
        first = max(head.first, end - _AT_ONCE)
        for event in reversed(await history.read(first, end, limit=_AT_ONCE)):
            found = turn_event(event)
            if found is not None:
                yield found
        end = first


class Run(msgspec.Struct, frozen=True):
    """One turn that answers a chat: the message that began it, and what is known of how far it is."""

    address: str
    channel: str
    message_id: str
    first: TurnEvent | None = None
    """Its earliest known entry in ``$turns``."""
    started: TurnEvent | None = None
    end: TurnEvent | None = None

    def preceded_by(self, entry: TurnEvent) -> "Run":
        """The run with an entry that is older than those that it was made of."""
        if entry.final:
            return msgspec.structs.replace(self, first=entry, end=self.end or entry)
        if entry.event == "started":
            return msgspec.structs.replace(self, first=entry, started=entry)
        return msgspec.structs.replace(self, first=entry)


async def find_run(store: Store, address: str, channel: str, *, message_id: str = "", key: str = "") -> Run | None:
    """The turn of a message, by its id or by its idempotency key; None if nothing is retained of it.

    A message that was handed to a running turn is answered by that turn.
    """
    run: Run | None = None
    async for entry in backwards(store, address):
        wanted = entry.message_id == (run.message_id if run is not None else message_id)
        if not wanted and not (run is None and key and entry.key == key):
            continue
        if entry.into:
            return await find_run(store, address, channel, message_id=entry.into)
        run = (run or Run(address, channel, entry.message_id)).preceded_by(entry)
        if entry.event == "accepted":
            break
    return run


async def current_run(store: Store, address: str, channel: str, handler: str) -> Run | None:
    """The turn of a handler that runs now; else the next that will; else the last that has ended."""
    runs: dict[str, Run] = {}
    steered: set[str] = set()
    waiting: str | None = None
    ended: str | None = None
    async for entry in backwards(store, address):
        if entry.handler != handler or entry.message_id in steered:
            continue
        if entry.into:
            steered.add(entry.message_id)
            continue
        run = runs.get(entry.message_id) or Run(address, channel, entry.message_id)
        run = runs[entry.message_id] = run.preceded_by(entry)
        if run.end is None and entry.event == "started":
            return run
        if run.end is None and entry.event == "accepted":
            waiting = run.message_id  # the earliest is the next
        if entry.final and ended is None:
            ended = run.message_id
    found = waiting or ended
    return runs[found] if found else None
