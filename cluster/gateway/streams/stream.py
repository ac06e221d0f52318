"""A free-standing stream as an actor: each operation is a turn, so that one commit holds all of its effects."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from actors import Actor, ActorError, actor_ref, handler
from actors.context import current_turn
from actors.producers import Producer, judge
from cluster.gateway.streams import json_mode
from cluster.gateway.streams.entries import read_entries
from cluster.gateway.streams.names import index_address
from cluster.gateway.streams.offsets import Offset, parse_offset
from cluster.gateway.streams.stream_state import (
    CLOSED,
    DATA,
    GONE,
    LOG,
    Appended,
    Code,
    Creation,
    Entry,
    Lifetime,
    Outcome,
    Segment,
    StreamState,
    View,
    Write,
)

RESERVE_LIMIT = 10.0
_EXPIRY = "expiry"
_EARLIEST = 0.05  # seconds
_SLIDES = 16  # a sliding window is stored again when this part of it has passed
_encode = msgspec.msgpack.Encoder().encode


class _Origin(NamedTuple):
    """What a stream begins with."""

    content_type: str
    lifetime: Lifetime
    born: int
    generation: int
    position: int
    inherited: list[Segment]
    prefix: bytes


class Stream(Actor, type="durable_stream", idle_timeout=60):
    """Append-only bytes under a name, with the semantics of the Durable Streams protocol.

    The entries are items of the channel ``log``. A fork has its own entries and reads the others where its ancestors
    have them; each stream knows its forks, and keeps its entries for them when it is deleted.
    """

    state: StreamState

    async def on_activate(self) -> None:
        """A window that slid after it was last stored must not end too early."""
        self._used = self.state.used + (self.state.lifetime.ttl or 0) / _SLIDES

    # -- create, append, look, remove -------------------------------------------------------------------------------

    @handler
    async def create(self, wanted: Creation) -> Outcome:
        """Make the stream, unless there is one."""
        state = self.state
        if self._is_over() and not state.forks:
            await self._erase()
            return Outcome("again")
        if self._is_over() or state.deleted:
            return Outcome("conflict", detail="the stream was deleted, and there are forks that need it")
        if state.id:
            difference = _difference(state, wanted)
            if difference:
                return Outcome("conflict", detail=f"the stream is there with another {difference}")
            self._use()
            return Outcome("ok", self._view())
        origin = await self._inherit(wanted) if wanted.fork is not None else self._afresh(wanted)
        if isinstance(origin, Outcome):
            return origin
        try:
            body = _to_store(wanted.body, origin.content_type)
        except ValueError as error:
            await self._give_up(wanted)
            return Outcome("invalid", detail=str(error))
        await self._begin(wanted, origin, body)
        return Outcome("created", self._view())

    @handler
    async def append(self, writes: list[Write]) -> list[Appended]:
        """Append, close, or both in one: each write for itself, in their order, and all that are good in one commit."""
        refused = await self._check_exists()
        if refused is not None:
            return [Appended(refused.code, detail=refused.detail)] * len(writes)
        entries: list[Entry] = []
        outcomes = [self._append(write, entries) for write in writes]
        if entries:
            await self._publish(entries)
            self._use()
            await self._tell_watchers()
        return outcomes

    def _append(self, write: Write, entries: list[Entry]) -> Appended:
        """What comes of a write; if it is good, its entry is one more of those that are to be published."""
        state, body = self.state, b""
        if state.closed:
            return self._to_closed(write)
        if write.body:
            if json_mode.media_type(write.content_type) != json_mode.media_type(state.content_type):
                return self._appended("conflict", detail=f"the stream's content type is {state.content_type!r}")
            try:
                body = _to_store(write.body, state.content_type)
            except ValueError as error:
                return self._appended("invalid", detail=str(error))
            if not body:
                return self._appended("invalid", detail="an empty array appends nothing")
        if write.producer is not None:
            name, epoch, seq = write.producer
            verdict = judge(state.producers.get(name), epoch, seq)
            if verdict.code != "ok":
                return self._appended(verdict.code, detail=verdict.detail, epoch=verdict.epoch, seq=verdict.seq)
        if write.seq is not None:
            if state.seq is not None and write.seq.encode() <= state.seq.encode():
                return self._appended("conflict", detail=f"Stream-Seq must be above {state.seq!r}")
            state.seq = write.seq
        entries.append(self._next_entry(body, close=write.close))
        if write.producer is None:
            return self._appended("ok")
        name, epoch, seq = write.producer
        state.producers[name] = Producer(epoch, seq)
        state.closed_by = write.producer if write.close else None
        return self._appended("ok", epoch=epoch, seq=seq)

    @handler
    async def look(self, use: bool) -> Outcome:  # noqa: FBT001  # an argument on the wire
        """What there is to read. ``use``: somebody reads, which lets a sliding window begin anew."""
        refused = await self._check_exists()
        if refused is not None:
            return refused
        if use:
            self._use()
        return Outcome("ok", self._view())

    @handler
    async def remove(self) -> Outcome:
        """Delete the stream; what its forks need is kept until they are gone."""
        refused = await self._check_exists()
        if refused is not None:
            return refused
        await self._end()
        return Outcome("ok")

    async def _check_exists(self) -> Outcome | None:
        if self._is_over():
            kept = bool(self.state.forks)
            await self._end()
            return Outcome("gone" if kept else "missing", detail="the stream has expired")
        if self.state.deleted:
            return Outcome("gone", detail="the stream was deleted; only its forks can be read")
        if not self.state.id:
            return Outcome("missing", detail="there is no stream of this name")
        return None

    def _to_closed(self, write: Write) -> Appended:
        """What a write to a closed stream comes to."""
        if write.producer is not None:
            if write.close and write.producer == self.state.closed_by:
                _, epoch, seq = write.producer
                return self._appended("duplicate", epoch=epoch, seq=seq)
        elif write.close and not write.body:
            self._use()
            return self._appended("duplicate")
        return self._appended("closed", detail="the stream is closed")

    def _appended(self, code: Code, *, detail: str = "", epoch: int | None = None, seq: int | None = None) -> Appended:
        state = self.state
        return Appended(code, state.generation, state.next, state.closed, detail, epoch, seq)

    def _afresh(self, wanted: Creation) -> _Origin:
        generation = self._end_of_log()
        content_type = wanted.content_type or "application/octet-stream"
        return _Origin(content_type, wanted.lifetime, generation, generation, 0, [], b"")

    async def _begin(self, wanted: Creation, origin: _Origin, body: bytes) -> None:
        state = self.state
        state.id, state.path = self.context.message_id, wanted.path
        state.content_type, state.lifetime = origin.content_type, origin.lifetime
        state.born, state.generation, state.next = origin.born, origin.generation, origin.position
        state.segments = [*origin.inherited, Segment(self.address, origin.position, self._end_of_log())]
        state.fork = wanted.fork
        entries: list[Entry] = []
        if origin.prefix:
            entries.append(self._next_entry(origin.prefix, close=False))
        if body or wanted.close:
            entries.append(self._next_entry(body, close=wanted.close))
        if entries:
            await self._publish(entries)
        self._use()
        await self._plan_expiry()
        await actor_ref(index_address(state.path)).added.send(state.path, time.time())
        await self._tell_watchers()

    def _next_entry(self, data: bytes, *, close: bool) -> Entry:
        """An entry at the end of the stream; the state has it from now on."""
        state = self.state
        entry = state.next, data, CLOSED if close else DATA
        state.next += bool(data)
        state.closed = close
        return entry

    async def _publish(self, entries: Iterable[Entry]) -> None:
        turn = current_turn.get()
        await self._activation.runtime.publish_own(turn, LOG, (msgspec.Raw(_encode(entry)) for entry in entries))

    def _view(self) -> View:
        state = self.state
        return View(
            state.id, state.content_type, state.lifetime, state.closed,
            state.generation, state.born, state.next, state.segments,
        )  # fmt: skip

    def _tail(self) -> str:
        return str(Offset(self.state.generation, self.state.next))

    def _end_of_log(self) -> int:
        """The offset that the next entry has in the channel: it goes on rising when the stream is deleted."""
        return self._activation.durable_side.channel(LOG).next

    # -- forks ------------------------------------------------------------------------------------------------------

    @handler
    async def reserve(self, fork: str, address: str, offset: str | None, content_type: str) -> Outcome:
        """Keep what is here for a fork at an offset (None: the tail)."""
        refused = await self._check_exists()
        if refused is not None:
            return refused if refused.code == "missing" else Outcome("conflict", detail=refused.detail)
        state = self.state
        if content_type and json_mode.media_type(content_type) != json_mode.media_type(state.content_type):
            return Outcome("conflict", detail=f"the content type is {state.content_type!r}")
        at = Offset(state.generation, state.next) if offset is None else parse_offset(offset)
        if not state.born <= at.generation <= state.generation or at.position > state.next:
            return Outcome(
                "invalid", detail=f"the offset {offset} is not within the stream, which ends at {self._tail()}"
            )
        state.forks[fork] = address
        return Outcome("ok", self._view(), position=at.position)

    @handler
    async def release(self, fork: str) -> None:
        """A fork is gone, or never came to be."""
        state = self.state
        if state.deleted and list(state.forks) == [fork]:
            await self._erase()
        else:
            state.forks.pop(fork, None)

    async def _inherit(self, wanted: Creation) -> _Origin | Outcome:
        """What a fork begins with. Once the source knows of it, this message runs to its end, whatever happens."""
        fork = wanted.fork
        assert fork is not None
        if fork.source == self.address:
            return Outcome("missing", detail="the source of the fork: there is no stream of this name")
        await self.step("begin", _nothing)
        source = actor_ref(fork.source).options(timeout=RESERVE_LIMIT)
        try:
            reserved: Outcome = await source.reserve(
                self.context.message_id, self.address, fork.offset, wanted.content_type
            )
        except ActorError as error:  # also where two streams wait to be forked from each other
            await self._give_up(wanted)
            return Outcome("unreachable", detail=f"the source of the fork does not answer: {error}")
        view, position = reserved.view, reserved.position
        if reserved.code != "ok" or view is None or position is None:
            return Outcome(reserved.code, detail=f"the source of the fork: {reserved.detail}")
        try:
            prefix = await self._prefix(view, position, fork.sub_offset) if fork.sub_offset else b""
        except ValueError as error:
            await self._give_up(wanted)
            return Outcome("invalid", detail=str(error))
        return _Origin(
            content_type=view.content_type,
            lifetime=wanted.lifetime or view.lifetime,
            born=view.born,
            generation=max(view.generation, self._end_of_log()),
            position=position,
            inherited=[segment for segment in view.segments if segment.first < position],
            prefix=prefix,
        )

    async def _prefix(self, source: View, position: int, count: int) -> bytes:
        """The first bytes, or JSON messages, of the append at a position. Raises ``ValueError`` if it has fewer."""
        store = self._activation.runtime.store
        found = await read_entries(store, source.segments, position, min(position + 1, source.next))
        data = found[0] if found else b""
        if not json_mode.is_json(source.content_type):
            if count <= len(data):
                return data[:count]
            raise ValueError(f"the sub-offset {count} is beyond the {len(data)} bytes at that offset")
        messages = json_mode.split(json_mode.array([data]))
        if count <= len(messages):
            return json_mode.join(messages[:count])
        raise ValueError(f"the sub-offset {count} is beyond the {len(messages)} messages at that offset")

    async def _give_up(self, wanted: Creation) -> None:
        """Nothing comes of a creation: what was kept for it is needed no more."""
        if wanted.fork is not None:
            await actor_ref(wanted.fork.source).release.send(self.context.message_id)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def on_reminder(self, name: str) -> None:
        """The stream may have expired, or was used meanwhile."""
        if self._is_over():
            await self._end()
        else:
            await self._plan_expiry()

    async def _end(self) -> None:
        if self.state.forks:
            self.state.deleted = True
            await self._publish([(self.state.next, b"", GONE)])
        else:
            await self._erase()

    async def _erase(self) -> None:
        state = self.state
        if state.fork is not None:
            await actor_ref(state.fork.source).release.send(state.id)
        await actor_ref(index_address(state.path)).removed.send(state.path)
        for watcher in state.watchers:
            await actor_ref(watcher).vanished.send(state.path)
        await self.delete()

    def _use(self) -> None:
        """Let a sliding window begin anew."""
        ttl = self.state.lifetime.ttl
        if ttl is not None:
            self._used = time.time()
            if abs(self._used - self.state.used) >= ttl / _SLIDES:
                self.state.used = self._used

    def _end_of_life(self) -> float | None:
        lifetime = self.state.lifetime
        if lifetime.ttl is not None:
            return self._used + lifetime.ttl
        return lifetime.expires if lifetime.expires_at else None

    def _is_over(self) -> bool:
        end = self._end_of_life()
        return bool(self.state.id) and not self.state.deleted and end is not None and time.time() >= end

    async def _plan_expiry(self) -> None:
        end = self._end_of_life()
        if end is not None and self.state.id and not self.state.deleted:
            await self.remind(_EXPIRY, after=max(end - time.time(), _EARLIEST))

    # -- subscriptions ----------------------------------------------------------------------------------------------

    @handler
    async def watch(self, subscription: str, path: str, from_start: bool) -> None:  # noqa: FBT001  # on the wire
        """Tell the subscription of this stream, and from now on of every append."""
        self.state.watchers[subscription] = True
        start = str(Offset(self.state.generation, self.state.segments[-1].first if self.state.segments else 0))
        acked = start if from_start else self._tail()
        await actor_ref(subscription).linked.send(path, acked, self._tail())

    @handler
    async def unwatch(self, subscription: str) -> None:
        """Tell the subscription nothing any more."""
        self.state.watchers.pop(subscription, None)

    async def _tell_watchers(self) -> None:
        for watcher in self.state.watchers:
            await actor_ref(watcher).touched.send(self.state.path, self._tail())


async def _nothing() -> None:
    """A step without effect: from then on its message is durable."""


def _to_store(body: bytes, content_type: str) -> bytes:
    """A body as an entry holds it. Raises ``ValueError``."""
    return json_mode.join(json_mode.split(body)) if body and json_mode.is_json(content_type) else body


def _difference(state: StreamState, wanted: Creation) -> str:
    """In what an existing stream is not the wanted one; empty if it is."""
    content_type = wanted.content_type or ("" if wanted.fork is not None else "application/octet-stream")
    if content_type and json_mode.media_type(content_type) != json_mode.media_type(state.content_type):
        return f"content type, {state.content_type!r}"
    if state.fork != wanted.fork:
        return "origin: it was forked from elsewhere, or is no fork"
    inherits = wanted.fork is not None and not wanted.lifetime
    if not inherits and (state.lifetime.ttl, state.lifetime.expires) != (wanted.lifetime.ttl, wanted.lifetime.expires):
        return "lifetime"
    if state.closed != wanted.close:
        return "state: it is " + ("closed" if state.closed else "open")
    return ""
