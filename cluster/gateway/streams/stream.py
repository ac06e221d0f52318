"""A free-standing stream as an actor: each operation is a turn, so that one commit holds all of its effects."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from actors import Actor, ActorError, actor_ref, handler
from actors.channel_log import read_items
from actors.context import current_turn
from actors.effects import Effects
from actors.producers import Producers
from actors.publishing import gathered, publish_own
from actors.records import ChannelItem
from cluster.gateway.streams import json_mode
from cluster.gateway.streams.batch import Batch, to_store
from cluster.gateway.streams.entries import read_entries
from cluster.gateway.streams.names import index_address
from cluster.gateway.streams.offsets import Offset, parse_offset
from cluster.gateway.streams.stream_state import (
    GONE,
    LOG,
    Appended,
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
        self._producers = Producers(LOG)

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
            return Outcome("ok", self._view(self._end_position()))
        origin = await self._inherit(wanted) if wanted.fork is not None else self._afresh(wanted)
        if isinstance(origin, Outcome):
            return origin
        try:
            body = to_store(wanted.body, origin.content_type)
        except ValueError as error:
            await self._give_up(wanted)
            return Outcome("invalid", detail=str(error))
        return Outcome("created", await self._begin(wanted, origin, body))

    @handler
    async def append(self, writes: list[Write]) -> list[Appended]:
        """Append, close, or both in one: each write for itself, in their order, and all that are good in one commit."""
        refused = await self._check_exists()
        if refused is not None:
            return [Appended(refused.code, detail=refused.detail)] * len(writes)
        try:
            await self._know_producers(writes)
            batch = self._new_batch(gathered())
            outcomes = [batch.write(write) for write in writes]
            if batch.entries:
                await self._publish(batch.entries)
                await self._tell_watchers(batch.next)
            if batch.is_use:
                self._use()
        except BaseException:
            self._producers = Producers(LOG)  # nothing of what it takes for written will be stored
            raise
        return outcomes

    def append_directly(self, writes: list[Write], by: str) -> tuple[list[Appended], Batch] | None:
        """The same without a message, in an activation that is free. What the batch says is to be committed.

        ``by``: an id for ``was_appended``. None where there is more to do than that, and nothing was done.
        """
        state = self.state
        if not state.id or state.deleted or state.watchers or self._is_over():
            return None
        log = self._activation.durable_side.channel(LOG)
        if log.closed or log.closing:
            return None
        self._producers.settled()
        for write in writes:
            if write.producer is not None and not self._producers.knows(write.producer[0]):
                return None
        batch = self._new_batch(Effects())
        try:
            outcomes = [batch.write(write) for write in writes]
            if batch.entries:
                check_size = self._activation.runtime.check_size
                items = batch.effects.items[LOG] = []
                for entry in batch.entries:
                    encoded = _encode(entry)
                    check_size(encoded, self.address)
                    items.append(ChannelItem("item", encoded, turn=by))
            if batch.is_use and state.lifetime.ttl is not None:
                self._use()
                batch.touches_state = True
        except BaseException:
            self._producers = Producers(LOG)
            self._activation.roll_back_state()
            raise
        return outcomes, batch

    @handler
    async def was_appended(self, offset: int, by: str) -> bool:
        """Whether the entry at an offset of the log came from the direct append with this id."""
        found = await read_items(self._activation.runtime.store, self.address, LOG, offset, offset + 1)
        return any(at == offset and item.turn == by for at, item in found)

    def _new_batch(self, effects: Effects) -> Batch:
        return Batch(self.state, self._end_position(), self._producers, self._silent_before(), effects)

    def _silent_before(self) -> float:
        """Producers of whom nothing was heard since then are forgotten."""
        runtime = self._activation.runtime
        return runtime.clock.time() - runtime.settings.retention

    async def _know_producers(self, writes: list[Write]) -> None:
        """Look up the producers of the writes; what the turns before this one have written is stored by now."""
        self._producers.settled()
        store, before = self._activation.runtime.store, self._silent_before()
        for name in {write.producer[0] for write in writes if write.producer is not None}:
            await self._producers.look_up(store, self.address, name, before)

    @handler
    async def look(self, use: bool) -> Outcome:  # noqa: FBT001  # an argument on the wire
        """What there is to read. ``use``: somebody reads, which lets a sliding window begin anew."""
        refused = await self._check_exists()
        if refused is not None:
            return refused
        if use:
            self._use()
        return Outcome("ok", self._view(self._end_position()))

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

    def _afresh(self, wanted: Creation) -> _Origin:
        generation = self.end_of_log()
        content_type = wanted.content_type or "application/octet-stream"
        return _Origin(content_type, wanted.lifetime, generation, generation, 0, [], b"")

    async def _begin(self, wanted: Creation, origin: _Origin, body: bytes) -> View:
        state = self.state
        state.id, state.path = self.context.message_id, wanted.path
        state.content_type, state.lifetime = origin.content_type, origin.lifetime
        state.born, state.generation, state.next = origin.born, origin.generation, origin.position
        state.segments = [*origin.inherited, Segment(self.address, origin.position, self.end_of_log())]
        state.fork = wanted.fork
        batch = Batch(state, origin.position, self._producers, 0.0, gathered())
        if origin.prefix:
            batch.add(origin.prefix)
        if body or wanted.close:
            batch.add(body, close=wanted.close)
        state.next, state.closed = batch.next, wanted.close
        if batch.entries:
            await self._publish(batch.entries)
        self._use()
        await self._plan_expiry()
        await actor_ref(index_address(state.path)).added.send(state.path, time.time())
        await self._tell_watchers(batch.next)
        return self._view(batch.next)

    async def _publish(self, entries: Iterable[Entry]) -> None:
        turn = current_turn.get()
        await publish_own(turn, LOG, (msgspec.Raw(_encode(entry)) for entry in entries))

    def _view(self, end: int) -> View:
        state = self.state
        return View(
            state.id, state.content_type, state.lifetime, state.closed,
            state.generation, state.born, end, state.segments,
        )  # fmt: skip

    def _offset(self, position: int) -> str:
        return str(Offset(self.state.generation, position))

    def _end_position(self) -> int:
        """The position behind the last entry that is committed.

        Each entry of an open stream has a position, so that its log says it, and no append has to change the state.
        """
        state = self.state
        if state.closed or state.deleted or not state.segments:
            return state.next
        own = state.segments[-1]
        return own.first + self.end_of_log() - own.base

    def end_of_log(self) -> int:
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
        end = self._end_position()
        at = Offset(state.generation, end) if offset is None else parse_offset(offset)
        if not state.born <= at.generation <= state.generation or at.position > end:
            return Outcome(
                "invalid", detail=f"the offset {offset} is not within the stream, which ends at {self._offset(end)}"
            )
        state.forks[fork] = address
        return Outcome("ok", self._view(end), position=at.position)

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
            generation=max(view.generation, self.end_of_log()),
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
            self.state.next, self.state.deleted = self._end_position(), True
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
        tail = self._offset(self._end_position())
        await actor_ref(subscription).linked.send(path, start if from_start else tail, tail)

    @handler
    async def unwatch(self, subscription: str) -> None:
        """Tell the subscription nothing any more."""
        self.state.watchers.pop(subscription, None)

    async def _tell_watchers(self, end: int) -> None:
        for watcher in self.state.watchers:
            await actor_ref(watcher).touched.send(self.state.path, self._offset(end))


async def _nothing() -> None:
    """A step without effect: from then on its message is durable."""


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
