"""``/v1/stream/<address>/<channel>``: the channels of actors, as streams of JSON messages.

They are there as long as the actor is, which is for ever: nobody creates or deletes them here.
"""

import contextlib
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from actors import Channel, Event, actor_ref, codec
from actors.address import is_address
from actors.builtin import APPEND
from actors.channel_log import read_items
from actors.errors import ChannelClosed
from actors.ports import Store
from actors.records import CHANNEL, FLOOR, ChannelHead, ChannelItem
from actors.ref import ActorRef, Options
from actors.runtime import Runtime
from cluster.gateway.auth import grant_of
from cluster.gateway.body import read_body
from cluster.gateway.hosted import HostedTypes
from cluster.gateway.hub import Hub
from cluster.gateway.json_values import check_count, read_json
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem, bad_request
from cluster.gateway.streams import json_mode
from cluster.gateway.streams.entries import Tail
from cluster.gateway.streams.free_standing import response_to
from cluster.gateway.streams.live import LiveReader
from cluster.gateway.streams.offsets import NOW, START, Offset
from cluster.gateway.streams.reading import Page, cacheable
from cluster.gateway.streams.stream_headers import headers_of, live_of, offset_of, write_of
from cluster.gateway.streams.stream_state import CLOSED, DATA, GONE, Appended, Entry, Lifetime, View
from cluster.gateway.streams.stream_writer import PATIENCE

_AT_ONCE = 256
_MOST_MESSAGES: Final = 10_000  # of one append: each is an entry, and they are committed together
_METHODS: Final = "GET, HEAD, POST, OPTIONS"


class ActorChannels:
    """Answers the requests to one channel of an actor."""

    def __init__(self, options: GatewayOptions, live: LiveReader, hosted: HostedTypes) -> None:
        self._options = options
        self._live = live
        self._hosted = hosted

    def find(self, runtime: Runtime, path: str) -> Channel | None:
        """The channel that a path names, if the first of its two parts is the address of an actor of this cluster."""
        address, slash, name = path.partition("/")
        if not slash or "/" in name or not is_address(address):
            return None
        if not self._hosted.has(runtime, address):
            return None
        try:
            return Channel(actor_ref(address), name)
        except ValueError as error:
            raise bad_request(str(error)) from None

    async def handle(self, request: Request, runtime: Runtime, channel: Channel) -> Response:
        """Any request. Raises ``Problem`` or an ``ActorError``."""
        source = ChannelSource(runtime.store, channel)
        match request.method:
            case "GET":
                return await self._read(request, source)
            case "HEAD":
                view, _ = await source.look()
                headers = {"Stream-Next-Offset": str(Offset(0, view.next)), "Cache-Control": "no-store"}
                headers |= {"Stream-Closed": "true"} if view.closed else {}
                return Response(headers={**headers, "Content-Type": view.content_type})
            case "POST":
                return await self._append(request, runtime, source)
        detail = "the channel of an actor is there as long as the actor: it can be read and appended to"
        raise Problem(405, "MethodNotAllowed", detail, headers={"Allow": _METHODS})

    async def _read(self, request: Request, source: "ChannelSource") -> Response:
        live, offset = live_of(request.query_params), offset_of(request.query_params)
        view, first = await source.look()
        position = first if offset in (None, START) else view.next
        if isinstance(offset, Offset):
            if offset.position < first:
                raise Problem(410, "OffsetGone", f"what was at {offset} is not kept any more; the first is {first}")
            if offset.generation or offset.position > view.next:
                raise bad_request(f"the offset {offset} is beyond the tail of the channel", name="OffsetBeyondTail")
            position = offset.position
        cursor, until = request.query_params.get("cursor"), grant_of(request).expires
        if live == "sse":
            return self._live.events(source, view, position, cursor, until=until)
        if live == "long-poll":
            return await self._live.poll(source, view, position, cursor, wait=offset == NOW, until=until)
        page = await Page.read(source, view, position, limit=self._options.max_chunk)
        return page.response(cache=False) if offset == NOW else cacheable(request, page)

    async def _append(self, request: Request, runtime: Runtime, source: "ChannelSource") -> Response:
        write = write_of(headers_of(request), await read_body(request, self._options.max_body))
        if write.seq is not None:
            raise bad_request("the channel of an actor takes no Stream-Seq: Producer-Id, -Epoch and -Seq say more")
        if write.body and not json_mode.is_json(write.content_type):
            raise Problem(409, "StreamConflict", "the content type of actors' channels is application/json")
        values = _values(write.body)
        ref = ActorRef(source.address, options=Options(timeout=PATIENCE, outside=True))
        verdict: tuple[Any, ...] = ("closed",)
        with contextlib.suppress(ChannelClosed):
            verdict = await runtime.outbound.ask(
                ref, APPEND, (source.channel.name, values, write.close, write.producer), {}
            )
        view, _ = await source.look()
        appended = Appended("ok", 0, view.next, view.closed)
        if verdict[0] == "closed":
            appended = Appended("closed", 0, view.next, view.closed, "the channel is closed")
        elif write.producer is not None:
            code, epoch, seq, detail = verdict
            appended = Appended(code, 0, view.next, view.closed, detail, epoch, seq)
        return response_to(write, appended)


def _values(body: bytes) -> list[object]:
    """The messages of a body; none if there is none. Raises ``Problem``."""
    if not body:
        return []
    check_count(body)
    try:
        messages = json_mode.split(body)
    except ValueError as error:
        raise bad_request(str(error)) from None
    if not messages:
        raise bad_request("an empty array appends nothing")
    if len(messages) > _MOST_MESSAGES:
        detail = f"an append to a channel has at most {_MOST_MESSAGES} messages; append in parts"
        raise Problem(413, "PayloadTooLarge", detail)
    return [read_json(message) for message in messages]


class ChannelSource:
    """One channel of an actor. What is stored is read from the store: the actor sleeps on."""

    def __init__(self, store: Store, channel: Channel) -> None:
        self._store = store
        self.channel = channel
        self.address = channel._ref.address

    async def look(self) -> tuple[View, int]:
        """The channel as it is, and the first position that is kept."""
        name = CHANNEL + self.channel.name.encode()
        head = await self._row(name, ChannelHead)
        if head is None:
            floor = await self._row(FLOOR, int) or 0
            head = ChannelHead(floor, floor)
        view = View(
            id=f"{self.address}/{self.channel.name}".encode().hex(),
            content_type="application/json",
            lifetime=Lifetime(),
            closed=head.closed,
            generation=0,
            born=0,
            next=head.next - head.closed,  # the entry that closes it is no message
            segments=[],
        )
        return view, head.first

    async def _row(self, key: bytes, kind: Any) -> Any:
        rows = await self._store.read(self.address, key, key + b"\0", limit=1)
        return msgspec.msgpack.decode(rows[0][1], type=kind) if rows else None

    async def read(self, view: View, first: int, *, limit: int) -> list[bytes]:
        """See ``Source``."""
        found: list[bytes] = []
        size = 0
        while first < view.next and size < limit:
            end = min(view.next, first + _AT_ONCE)
            rows = await read_items(
                self._store, self.address, self.channel.name, first, end, limit=_AT_ONCE, most=limit - size
            )
            if not rows:
                break
            for offset, item in rows:
                if offset != first or size >= limit:
                    return found
                found.append(_json(item.kind, _value(item)))
                size += len(found[-1])
                first += 1
        return found

    def tail(self, view: View, hub: Hub) -> Tail:
        """See ``Source``."""
        return _ChannelTail(hub.follow(self.channel, view.next - 1))


class _ChannelTail(Tail):
    def entry(self, event: Event) -> Entry | None:
        if event.kind == "closed":
            return (event.offset, b"", CLOSED if event.data else GONE)
        return (event.offset, _json(event.kind, event.data), DATA)


def _value(item: ChannelItem) -> object:
    try:
        return codec.decode(item.data, trusted=False)
    except Exception:  # a pickle: only members of the cluster can read it
        return {"unreadable": "this value is of a Python type that JSON cannot say"}


def _json(kind: str, value: object) -> bytes:
    """A message; a reset is told in the words of the State Protocol."""
    if kind == "reset" and isinstance(value, int):
        value = {"headers": {"control": "reset", "offset": str(Offset(0, value))}}
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except Exception:  # a value whose own conversion fails, or keys that JSON does not know
        return msgspec.json.encode({"unreadable": str(type(value).__name__)})
