"""What ``$turns``, the system channel of an actor, says of the turns of a handler; read without waking the actor."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from actors import codec
from actors.channel_log import read_items
from actors.ports import Store
from actors.records import CHANNEL, ChannelHead
from actors.turn_log import TURNS

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

    @property
    def final(self) -> bool:
        """Whether the turn has come to its end with it."""
        return self.event in FINAL


def turn_event(offset: int, data: object) -> TurnEvent | None:
    """The entry, or None if it is about something else."""
    if not isinstance(data, dict) or "event" not in data or "message_id" not in data:
        return None
    try:
        return msgspec.convert({**data, "offset": offset}, TurnEvent)
    except msgspec.ValidationError:
        return None


async def backwards(store: Store, address: str) -> AsyncIterator[TurnEvent]:
    """The entries that are retained of an actor's ``$turns``, the newest first."""
    rows = await store.read(address, CHANNEL + TURNS.encode(), CHANNEL + TURNS.encode() + b"\0", limit=1)
    if not rows:
        return
    head = msgspec.msgpack.decode(rows[0][1], type=ChannelHead)
    end = head.next
    while end > head.first:
        first = max(head.first, end - _AT_ONCE)
        for offset, item in reversed(await read_items(store, address, TURNS, first, end, limit=_AT_ONCE)):
            found = turn_event(offset, codec.decode(item.data, trusted=False)) if item.kind == "item" else None
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


async def find_run(store: Store, address: str, channel: str, *, message_id: str = "", key: str = "") -> Run | None:
    """The turn of a message, by its id or by its idempotency key; None if nothing is retained of it."""
    run: Run | None = None
    async for entry in backwards(store, address):
        if run is not None and entry.message_id != run.message_id:
            continue
        if run is None and not (entry.message_id == message_id or (key and entry.key == key)):
            continue
        run = _with(run or Run(address, channel, entry.message_id), entry)
        if entry.event == "accepted":
            break
    return run


async def current_run(store: Store, address: str, channel: str, handler: str) -> Run | None:
    """The turn of a handler that runs now; else the next that will; else the last that has ended."""
    runs: dict[str, Run] = {}
    waiting: str | None = None
    ended: str | None = None
    async for entry in backwards(store, address):
        if entry.handler != handler:
            continue
        known = runs.get(entry.message_id)
        run = runs[entry.message_id] = _with(known or Run(address, channel, entry.message_id), entry)
        if run.end is None and entry.event == "started":
            return run
        if run.end is None and entry.event == "accepted":
            waiting = run.message_id  # the earliest is the next
        if entry.final and ended is None:
            ended = run.message_id
    found = waiting or ended
    return runs[found] if found else None


def _with(run: Run, entry: TurnEvent) -> Run:
    """The run with an entry that is older than those that it was made of."""
    if entry.final:
        return msgspec.structs.replace(run, first=entry, end=run.end or entry)
    if entry.event == "started":
        return msgspec.structs.replace(run, first=entry, started=entry)
    return msgspec.structs.replace(run, first=entry)
