"""What a cluster keeps of its actors, as plain data for operators.

Everything is read from the store, so that any silo can tell and no actor is woken. Values are decoded without loading
anything: what was pickled is named, not restored.
"""

import base64
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors import codec, records, state_delta
from actors.address import listed, parse_address
from actors.channel_log import read_items
from actors.envelope import Mode, Request
from actors.errors import ClusterUnavailable, Rejected, UnknownActorType
from actors.journal import shown_path
from actors.ports import COLD, Store
from actors.records import (
    BESIDE,
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
    Deltas,
    Finished,
    Parked,
    Pending,
    Raised,
    Read,
    Reminder,
    Signal,
    Started,
    Waiting,
)
from actors.runtime import Runtime
from cluster.etcd import EtcdClient
from cluster.keys import Keys
from cluster.running import Watcher

if TYPE_CHECKING:
    from cluster.parked_page import ParkedPage

MOST_ROWS: Final = 10_000
MOST_BYTES: Final = 8 * 2**20
PAGE: Final = 50
"""Parked messages, or entries of a channel, in one answer."""

_REREADS = 5
_ROW = 400  # about what the names and numbers of a row take in an answer
_LARGE = {"$omitted": "a large value"}


def _behind(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])


# -- values ------------------------------------------------------------------------------------------------------------


def _extension(code: int, data: memoryview) -> object:
    if code == codec.REF:
        return f"actor_ref({bytes(data).decode()!r})"
    if code == codec.PICKLE:
        return f"<a pickled value of {len(data)} bytes>"
    return f"<MessagePack extension {code} of {len(data)} bytes>"


_decoder = msgspec.msgpack.Decoder(ext_hook=_extension)


def plain(payload: bytes | msgspec.Raw) -> object:
    """A MessagePack value as what JSON can say: keys are text, bytes become base64."""
    try:
        return _plain(_decoder.decode(payload))
    except (msgspec.DecodeError, RecursionError, TypeError, UnicodeDecodeError) as error:
        return f"<{len(bytes(payload))} bytes that cannot be decoded: {error}>"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _time(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601, UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError):
        return f"{seconds} s since 1970"


class Room:
    """What is left of an answer's size. One value takes at most half of it, so that the others are not crowded out."""

    def __init__(self, size: int) -> None:
        self.left = size

    def value(self, payload: bytes | msgspec.Raw, size: int) -> object:
        """The value, or how large it is."""
        if size > self.left // 2:
            return {"$omitted": f"{size} bytes"}
        self.left -= size
        return plain(payload)

    def text(self, text: str) -> str:
        """The text, or the beginning of it."""
        kept = text[: max(self.left // 8, 80)]
        self.left -= len(kept)
        return kept if kept == text else f"{kept}... ({len(text)} characters)"

    def row(self) -> bool:
        """Whether there is room for one more row."""
        self.left -= _ROW
        return self.left > 0


# -- rows --------------------------------------------------------------------------------------------------------------


def _message(request: Request, room: Room, **more: object) -> dict[str, object]:
    """A message, with its arguments."""
    payload = request.payload
    try:
        args, kwargs = codec.split_arguments(payload)
    except msgspec.DecodeError:
        args, kwargs = [msgspec.Raw(payload)], {}
    found: dict[str, object] = {
        "message_id": request.message_id,
        "handler": request.handler or "receive",
        "mode": Mode(request.mode).name.lower(),
        "sender": request.sender or None,
        **more,
        "args": [room.value(arg, len(bytes(arg))) for arg in args],
        "kwargs": {name: room.value(arg, len(bytes(arg))) for name, arg in kwargs.items()},
    }
    if request.key:
        found["idempotency_key"] = request.key
    if request.headers:
        found["headers"] = dict(request.headers)
    return found


def _parked(row: Parked, room: Room) -> dict[str, object]:
    return _message(row.request, room, reason=room.text(row.reason), since=_time(row.since))


async def _steps(
    store: Store, address: str, rows: Iterable[tuple[bytes, bytes]], room: Room
) -> dict[bytes, list[dict[str, Any]]]:
    """The journaled steps of each message, by its number; in the order in which they were called."""
    found: dict[bytes, dict[str, dict[str, Any]]] = {}
    for key, value in rows:
        row = records.journal_rows.decode(value)
        if isinstance(row, Read):
            continue  # it tells which message was read where, and of no step
        number, (path, _, _) = key[1:17], key[17:].partition(b"\0")
        steps = found.setdefault(number, {})
        name = shown_path(path.decode())
        if name not in steps and not room.row():
            continue
        step = steps.setdefault(name, {"name": name, "status": "streaming"})
        match row:
            case Started(function, elapsed):
                step |= {"status": "started", "function": function, "elapsed": elapsed}
            case Finished(function, elapsed, payload):
                step |= {"status": "finished", "function": function, "elapsed": elapsed}
                payload = payload if payload is not None else await _beside(store, address, key, room)
                step["result"] = _LARGE if payload is None else room.value(payload, len(payload))
            case Raised(function, elapsed, failure):
                step |= {"status": "failed", "function": function, "elapsed": elapsed}
                step["error"] = room.text(failure.text)
            case Waiting(function, elapsed, deadline):
                until = _time(deadline) if deadline != math.inf else None
                step |= {"status": "waiting", "function": function, "elapsed": elapsed, "until": until}
            case Deltas(deltas):
                step["deltas"] = step.get("deltas", 0) + len(deltas)
    return {
        number: sorted(steps.values(), key=lambda step: float(step.get("elapsed", math.inf)))
        for number, steps in found.items()
    }


async def _beside(store: Store, address: str, key: bytes, room: Room) -> bytes | None:
    if room.left < records.LARGE * 2:
        return None
    rows = await store.read(address, BESIDE + key, BESIDE + key + b"\0", limit=1)
    return rows[0][1] if rows else None


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


# -- questions ---------------------------------------------------------------------------------------------------------


class ChannelQuestion(msgspec.Struct):
    """Which entries of a channel: those behind offset ``after``."""

    address: str
    channel: str
    after: int | None = None


class ParkedQuestion(msgspec.Struct):
    """Which parked messages: of an address, of a type, or (both empty) all."""

    address: str = ""
    type: str = ""
    message_id: str = ""
    """This message only, with its journal."""
    after: tuple[str, str] | None = None
    """Those behind this address and key (in hex), as the answer before said."""


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
            "channel": lambda text: self.channel(_question(text, ChannelQuestion)),
            "parked": lambda text: self.parked(_question(text, ParkedQuestion)),
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
        steps = await _steps(self._store, address, (row for row in rows if row[0][:1] == JOURNAL), room)
        for key, value in rows:
            kind, rest = key[:1], key[1:]
            if kind not in (MESSAGE, PARKED, OUTBOX, REMINDER, CHANNEL, SIGNAL) or not room.row():
                continue
            if kind == MESSAGE:
                message = msgspec.msgpack.decode(value, type=Pending)
                described = _message(message.request, room, adoptions=max(message.adoptions, 0))
                queued.append({**described, "steps": steps.get(rest, [])})
            elif kind == PARKED:
                described = _parked(msgspec.msgpack.decode(value, type=Parked), room)
                parked.append({**described, "steps": steps.get(rest, [])})
            elif kind == OUTBOX:
                request = msgspec.msgpack.decode(value, type=Request)
                outbox.append(_message(request, room, to=request.address))
            elif kind == REMINDER:
                reminder = msgspec.msgpack.decode(value, type=Reminder)
                due = {"due": _time(reminder.due), "every": reminder.every or None}
                reminders.append({"name": rest.decode(), **due})
            elif kind == SIGNAL:
                signal = msgspec.msgpack.decode(value, type=Signal)
                said = room.value(signal.value, len(signal.value))
                signals.append({"name": rest.partition(b"\0")[0].decode(), "at": _time(signal.at), "value": said})
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
                found.append({"address": address, **_parked(parked, room)})
                if question.message_id:
                    found[-1]["steps"] = await self._steps_of(address, key[1:], room)
        else:
            beyond = len(rows) < PAGE
        return {"parked": found, "after": None if beyond else [after[0], after[1].hex()]}

    async def _steps_of(self, address: str, number: bytes, room: Room) -> list[dict[str, Any]]:
        first = JOURNAL + number
        rows = await self._store.read(address, first, _behind(first), limit=MOST_ROWS)
        return (await _steps(self._store, address, rows, room)).get(number, [])

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


def _question(text: str, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Rejected(f"a malformed question: {error}") from None
