"""What a cluster keeps of its actors, as plain data for operators.

Everything is read from the store, so that any silo can tell and no actor is woken. Values are decoded without loading
anything: what was pickled is named, not restored.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors import records, state_delta
from actors.address import listed, parse_address
from actors.channel_log import read_items
from actors.envelope import Request
from actors.errors import ClusterUnavailable, Rejected, UnknownActorType
from actors.ports import COLD, Store
from actors.records import (
    CHANNEL,
    DELTA,
    FLOOR,
    JOURNAL,
    MESSAGE,
    OUTBOX,
    PARKED,
    REMINDER,
    SIGNAL,
    ChannelHead,
    Parked,
    Pending,
    Reminder,
    Signal,
)
from actors.runtime import Runtime
from cluster.etcd import EtcdClient
from cluster.inspection.messages import describe, describe_parked
from cluster.inspection.plain import iso_time
from cluster.inspection.questions import ChannelQuestion, ParkedQuestion, read_question
from cluster.inspection.room import MOST_BYTES, Room
from cluster.inspection.steps import steps_of
from cluster.keys import Keys
from cluster.running import Watcher

if TYPE_CHECKING:
    from cluster.parked_page import ParkedPage

MOST_ROWS: Final = 10_000
PAGE: Final = 50
"""Parked messages, or entries of a channel, in one answer."""

_REREADS = 5


async def _state(store: Store, address: str) -> bytes | None:
    """The committed state with its deltas, which are read apart from it."""
    for _ in range(_REREADS):
        base = await store.state(address)
        deltas = await store.read(address, DELTA, _behind(DELTA), limit=MOST_ROWS)
        if base == await store.state(address):
            return base if base is None else state_delta.apply(base, (value for _, value in deltas))
    raise ClusterUnavailable(f"{address}: its state is rewritten all the time; try again")


def _counts(key: bytes, value: bytes) -> bool:
    """Whether the row says something of the actor. Answers that are kept for repeats do not, nor do deltas alone."""
    if key[:1] == MESSAGE:
        return isinstance(records.message_rows.decode(value), Pending)
    return key[:1] not in (DELTA, FLOOR)


def _behind(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Inspector:
    """Answers operators' questions in the name of one silo.

    ``locate`` finds the id of the silo that owns an address, None if it sleeps.
    """

    def __init__(self, runtime: Runtime, locate: Callable[[str], Awaitable[str | None]], watcher: Watcher) -> None:
        self._runtime = runtime
        self._store = runtime.store
        self._locate = locate
        self._watcher = watcher

    def queries(self) -> dict[str, Callable[[str], Awaitable[object]]]:
        """The topics of ``Query`` that this answers."""
        return {
            "show": self.show,
            "channel": lambda text: self.channel(read_question(text, ChannelQuestion)),
            "parked": lambda text: self.parked(read_question(text, ParkedQuestion)),
        }

    def _room(self) -> Room:
        return Room(min(MOST_BYTES, self._runtime.settings.max_payload + 32 * 1024))

    async def show(self, address: str) -> dict[str, object]:
        """Everything that is known of an address. Raises ``UnknownActorType`` where that is nothing at all."""
        type_name = self._type_of(address)
        owner = await self._locate(address)
        state = await _state(self._store, address)
        rows = await self._store.read(address, b"\x00", COLD, limit=MOST_ROWS)
        hot = [(key, value) for key, value in rows if _counts(key, value)]
        if owner is None and state is None and not hot:
            self._check_type(address, type_name)
        room = self._room()
        found: dict[str, object] = {
            "address": address,
            "silo": owner.partition(".")[0] if owner is not None else None,
            "running": await self._watcher.running(address, owner) if owner is not None else [],
            "type": type_name,
            "options": self._options(type_name),
            "stored": state is not None or bool(hot),
            "state_size": len(state) if state is not None else 0,
            "state": room.value(state[1:], len(state)) if state is not None else None,
            **await self._rows(address, hot, room),
        }
        if len(rows) == MOST_ROWS or room.left <= 0:
            found["cut"] = True
        return found

    async def _rows(self, address: str, rows: list[tuple[bytes, bytes]], room: Room) -> dict[str, object]:
        queued: list[dict[str, object]] = []
        parked: list[dict[str, object]] = []
        outbox: list[dict[str, object]] = []
        reminders: list[dict[str, object]] = []
        channels: list[dict[str, object]] = []
        signals: list[dict[str, object]] = []
        steps = await steps_of(self._store, address, (row for row in rows if row[0][:1] == JOURNAL), room)
        for key, value in rows:
            kind, rest = key[:1], key[1:]
            if kind not in (MESSAGE, PARKED, OUTBOX, REMINDER, CHANNEL, SIGNAL) or not room.row():
                continue
            if kind == MESSAGE:
                message = msgspec.msgpack.decode(value, type=Pending)
                described = describe(message.request, room, adoptions=max(message.adoptions, 0))
                queued.append({**described, "steps": steps.get(rest, [])})
            elif kind == PARKED:
                described = describe_parked(msgspec.msgpack.decode(value, type=Parked), room)
                parked.append({**described, "steps": steps.get(rest, [])})
            elif kind == OUTBOX:
                request = msgspec.msgpack.decode(value, type=Request)
                outbox.append(describe(request, room, to=request.address))
            elif kind == REMINDER:
                reminder = msgspec.msgpack.decode(value, type=Reminder)
                due = {"due": iso_time(reminder.due), "every": reminder.every or None}
                reminders.append({"name": rest.decode(), **due})
            elif kind == SIGNAL:
                signal = msgspec.msgpack.decode(value, type=Signal)
                said = room.value(signal.value, len(signal.value))
                signals.append({"name": rest.partition(b"\0")[0].decode(), "at": iso_time(signal.at), "value": said})
            else:
                head = msgspec.msgpack.decode(value, type=ChannelHead)
                channels.append({"name": rest.decode(), "first": head.first, "next": head.next})
        return {
            "queued": queued,
            "parked": parked,
            "outbox": outbox,
            "reminders": reminders,
            "channels": channels,
            "signals": signals,
        }

    async def channel(self, question: ChannelQuestion) -> dict[str, object]:
        """Some entries of a channel as ``[offset, kind, value]``, and the offset that the next one will have."""
        address, name, after = question.address, question.channel, question.after
        type_name = self._type_of(address)
        head = await self._record(address, CHANNEL + name.encode(), ChannelHead)
        if head is None:
            options = self._options(type_name)
            self._check_type(address, type_name)
            if options is not None and options["persist"] != "turn":
                raise Rejected(f'{address}: a {type_name} has no channels; they need class X(Actor, persist="turn")')
            return {"entries": [], "next": await self._record(address, FLOOR, int) or 0, "exists": False}
        first, room = head.first if after is None else max(after + 1, head.first), self._room()
        entries: list[list[object]] = []
        for offset, item in await read_items(self._store, address, name, first, head.next, limit=PAGE):
            if entries and len(item.data) > room.left // 2:
                break  # the next page has room for it
            entries.append([offset, item.kind, room.value(item.data, len(item.data))])
        return {"entries": entries, "next": head.next, "exists": True}

    async def parked(self, question: ParkedQuestion) -> dict[str, object]:
        """Some parked messages, by address, and (``after``) behind what to ask for the next ones, None at the end."""
        prefix = question.address or (f"{question.type}-" if question.type else "")
        after = (prefix, b"")
        if question.after is not None:
            after = max(after, (question.after[0], bytes.fromhex(question.after[1])))
        found: list[dict[str, object]] = []
        room = self._room()
        rows = await self._store.flagged(after=after, limit=PAGE)
        for address, key, value in rows:
            beyond = address != prefix if question.address else not address.startswith(prefix)
            if beyond or (found and room.left < MOST_BYTES // 16):
                break
            after = (address, key)
            parked = msgspec.msgpack.decode(value, type=Parked)
            if question.message_id in ("", parked.request.message_id):
                room.row()
                found.append({"address": address, **describe_parked(parked, room)})
                if question.message_id:
                    found[-1]["steps"] = await self._steps_of(address, key[1:], room)
        else:
            beyond = len(rows) < PAGE
        return {"parked": found, "after": None if beyond else [after[0], after[1].hex()]}

    async def _steps_of(self, address: str, number: bytes, room: Room) -> list[dict[str, Any]]:
        first = JOURNAL + number
        rows = await self._store.read(address, first, _behind(first), limit=MOST_ROWS)
        return (await steps_of(self._store, address, rows, room)).get(number, [])

    async def _record(self, address: str, key: bytes, kind: type[Any]) -> Any:
        rows = await self._store.read(address, key, key + b"\0", limit=1)
        return msgspec.msgpack.decode(rows[0][1], type=kind) if rows else None

    def _type_of(self, address: str) -> str:
        try:
            return parse_address(address).type
        except ValueError as error:
            raise Rejected(str(error)) from None

    def _check_type(self, address: str, type_name: str) -> None:
        """Raise ``UnknownActorType`` unless a live silo hosts the type."""
        types = self._runtime.directory.types()
        if type_name not in types:
            known = listed(types)
            raise UnknownActorType(f"{address}: no silo hosts the type {type_name!r} (known types: {known})")

    def _options(self, type_name: str) -> dict[str, object] | None:
        """The class options, None if this silo does not have the class."""
        actor_type = self._runtime.types.get(type_name)
        if actor_type is None:
            return None
        options = actor_type.options._asdict()
        options["channel_retention"] = asdict(actor_type.options.channel_retention)
        options["carries"] = list(actor_type.options.carries)  # plain data: a client takes no pickles
        return {name: value if not callable(value) else value.__qualname__ for name, value in options.items()}


def open_inspection(
    runtime: Runtime, etcd: EtcdClient | None, keys: Keys, page: "ParkedPage | None"
) -> dict[str, Callable[[str], Awaitable[object]]]:
    """What a silo answers to operators, by the topic of their ``Query``; also on its HTTP ``page``, if it has one."""

    async def locate(address: str) -> str | None:
        directory = runtime.directory
        if etcd is None:
            return directory.silo if address in runtime.activations else None
        found = (await etcd.get(keys.actor(address))).kvs
        owner = found[0].value.decode() if found else ""
        return owner if directory.is_member(owner) else None

    watcher = Watcher(runtime)
    inspector = Inspector(runtime, locate, watcher)
    if page is not None:
        page.inspector = inspector
    return {**inspector.queries(), **watcher.queries()}
