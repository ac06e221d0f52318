"""The durable side of an activation with ``persist="turn"``: inbox, outbox, reminders and channels, and the one commit
in which a turn changes them all.

A commit is composed and handed to the store without an await in between, so that the store applies what belongs to one
address in the order in which it was composed.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import UNSET

from actors import records
from actors.channel_log import ChannelLog, Cut
from actors.durable_state import DurableState
from actors.effects import Effects
from actors.envelope import Accepted, Envelope, Failure, Mode, Reply, Request
from actors.errors import ActorError, StateUnreadable
from actors.handler import Lane
from actors.inbox import Inbox
from actors.outbox import Outbox
from actors.ports import Commit, Opened
from actors.progress import Told
from actors.records import (
    BESIDE,
    CHANNEL,
    FLOOR,
    INTERRUPT,
    JOURNAL,
    MESSAGE,
    OUTBOX,
    PAIR,
    PARKED,
    REMINDER,
    RUN,
    SIGNAL,
    WRITTEN_BY,
    ChannelHead,
    ChannelItem,
    Parked,
    Pending,
    Reminder,
    encode,
)
from actors.release import RELEASE
from actors.reminders import Reminders
from actors.retention import SYSTEM, Trimmer
from actors.signals import Signals
from actors.turn_log import TURNS, TurnLog

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.turn import Turn
    from actors.waiting import Wait

_NO_EFFECTS = Effects()
_UNKNOWN = float("nan")


class Write(NamedTuple):
    """A commit, and what may happen once it is durable."""

    commit: Commit
    then: list[Callable[[], None]]


class Counter:
    """Counts the numbers of one epoch, also over several activations under one claim."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Durable:
    """What the store knows of an activation beside its state, and every change of it on the way there."""

    __slots__ = (
        "_activation", "_admitting", "_cut", "_drop", "_journals", "_put", "_readers_ended", "_signals", "_then",
        "_turn_log", "_wake", "_written", "channels", "counter", "floor", "inbox", "outbox", "reminders", "rows",
        "state", "trimmer", "wait", "writes",
    )  # fmt: skip

    def __init__(self, activation: "Activation", state: DurableState | None, counter: Counter | None = None) -> None:
        self._activation = activation
        self.state = state
        self.counter = counter or Counter()
        self.writes = 0
        """How many commits are under way."""
        self.rows = 0
        """How many unsettled messages the store has, or will have with the commits under way."""
        self.inbox = Inbox(activation)
        self.channels: dict[str, ChannelLog] | None = None
        self.outbox: Outbox | None = None
        self.reminders: Reminders | None = None
        self._journals: dict[bytes, dict[bytes, bytes]] | None = None  # what was loaded, by message number
        self._admitting: list[Turn] | None = None
        self._drop: list[bytes] = []
        self._cut: list[Cut] = []
        keep = activation.type.options.channel_retention
        self.trimmer = Trimmer(activation, keep) if keep.bytes is not None or keep.age is not None else None
        self._put: dict[bytes, bytes] = {}  # what goes with the next commit
        self._then: list[Callable[[], None]] = []
        self._wake: float | None = None
        self.floor = 0
        """Where new channels begin: above all that were deleted, and the event that ended them."""
        self._written: asyncio.Event | None = None
        self._turn_log: TurnLog | None = None
        self._signals: Signals | None = None
        self.wait: Wait | None = None
        """What the running turn waits for, if it does nothing else."""
        self._readers_ended = False

    # -- what is there when the activation begins -------------------------------------------------------------------

    def load(self, opened: Opened) -> list[tuple[bytes, Pending]]:
        """Take over the stored rows; return the messages that are to be run, oldest first, with their numbers."""
        pending: list[tuple[bytes, Pending]] = []
        for key, value in opened.records.items():
            kind, rest = key[:1], key[1:]
            try:
                if kind == MESSAGE:
                    row = records.message_rows.decode(value)
                    if isinstance(row, Pending):
                        pending.append((rest, row))
                    else:
                        self.inbox.restore(row, rest)
                elif kind == JOURNAL:
                    self._journals = self._journals or {}
                    self._journals.setdefault(rest[:16], {})[rest[16:]] = value
                else:
                    self._load(kind, rest, value)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise StateUnreadable(
                    f"{self._activation.address}: the stored record {key.hex()} cannot be read by release {RELEASE} "
                    f"and was left untouched: a newer release has written it, or it is damaged ({error})"
                ) from error
        self.rows = len(pending)
        self._wake = _UNKNOWN if pending else self._next_wake()
        return pending

    def _load(self, kind: bytes, rest: bytes, value: bytes) -> None:
        if kind == OUTBOX:
            self._outbox().restore(rest, msgspec.msgpack.decode(value, type=Request))
        elif kind == REMINDER:
            self._reminders().rows[rest.decode()] = msgspec.msgpack.decode(value, type=Reminder)
        elif kind == PARKED:
            parked = msgspec.msgpack.decode(value, type=Parked)
            self.inbox.parked[parked.request.message_id] = parked.reason
        elif kind == CHANNEL:
            self._add_channel(rest.decode(), msgspec.msgpack.decode(value, type=ChannelHead))
        elif kind == INTERRUPT:
            self.inbox.restore_interrupt(rest.decode(), msgspec.msgpack.decode(value, type=records.Interrupt))
        elif kind == RUN:
            self.turn_log.restore(rest, msgspec.msgpack.decode(value, type=records.Run))
        elif kind == SIGNAL:
            self.signals.restore(rest, value)
        elif kind == FLOOR:
            self.floor = msgspec.msgpack.decode(value, type=int)

    def mark(self, written_by: bytes) -> None:
        """With the next commit goes whose commits these are."""
        self._put[WRITTEN_BY] = written_by

    def start(self) -> None:
        """The activation is active: go on with what a former one left."""
        if self.outbox is not None:
            self.outbox.start()
        if self.reminders is not None:
            self.reminders.start()
        if self.trimmer is not None:
            self.trimmer.start()

    def stop(self) -> None:
        """The activation has ended."""
        if self.outbox is not None:
            self.outbox.stop()
        if self.reminders is not None:
            self.reminders.stop()
        if self.trimmer is not None:
            self.trimmer.stop()
        self.end_readers()

    def end_readers(self) -> None:
        """Let the readers of the channels look for the next activation."""
        self._readers_ended = True
        for channel in (self.channels or {}).values():
            channel.end_readers()

    @property
    def busy(self) -> bool:
        """Whether something is on its way: to the store, or to other actors."""
        return self.writes > 0 or bool(self._admitting) or (self.outbox is not None and self.outbox.busy)

    def write_ended(self) -> None:
        """A commit has been answered."""
        self.writes -= 1
        if self._written is not None and not self.writes:
            self._written.set()

    async def written(self) -> None:
        """Return when no commit is under way."""
        while self._admitting or self.writes:
            self._written = asyncio.Event()
            if self.writes:
                await self._written.wait()
            else:
                await asyncio.sleep(0)  # the next commit is about to be composed

    def journal_of(self, turn: "Turn") -> dict[bytes, bytes]:
        """What was journaled of the turn's message before this activation: rows by path."""
        return self._journals.pop(turn.number, {}) if self._journals else {}

    def has_journal(self, turn: "Turn") -> bool:
        """Whether something was journaled of the turn's message before this activation."""
        return turn.number in (self._journals or {})

    def _unread_journal(self, turn: "Turn") -> list[bytes]:
        """The keys of rows of a turn that ended, this time, before it came to any step."""
        keys = [JOURNAL + turn.number + path for path in self.journal_of(turn)]
        return [*keys, *(BESIDE + key for key in keys)]

    def channel(self, name: str) -> ChannelLog:
        """The log of a channel of this actor."""
        found = self.channels.get(name) if self.channels else None
        return found or self._add_channel(name, ChannelHead(self.floor, self.floor))

    def _add_channel(self, name: str, head: ChannelHead) -> ChannelLog:
        if self.channels is None:
            self.channels = {}
        keep = SYSTEM if name.startswith("$") else self._activation.type.options.channel_retention
        log = self.channels[name] = ChannelLog(name, head, keep)
        if self._readers_ended:
            log.end_readers()
        return log

    def _outbox(self) -> Outbox:
        if self.outbox is None:
            self.outbox = Outbox(self._activation)
        return self.outbox

    def _reminders(self) -> Reminders:
        if self.reminders is None:
            self.reminders = Reminders(self._activation)
        return self.reminders

    @property
    def signals(self) -> Signals:
        """What turns may wait for."""
        if self._signals is None:
            self._signals = Signals(self._activation.address)
        return self._signals

    @property
    def turn_log(self) -> TurnLog:
        """What is told of turns."""
        if self._turn_log is None:
            self._turn_log = TurnLog(self)
        return self._turn_log

    @property
    def is_watched(self) -> bool:
        """Whether somebody reads the channel of turns."""
        log = self.channels.get(TURNS) if self.channels else None
        return log is not None and log.is_read

    @property
    def tells_of_turns(self) -> bool:
        """Whether the next turn would be told of."""
        return self._turn_log is not None or self.is_watched

    def _now(self) -> float:
        return self._activation.runtime.clock.time()

    def next_number(self) -> bytes:
        """A number above all that this address has ever used."""
        self.counter.value += 1
        return records.number(self._activation.epoch, self.counter.value)

    # -- messages that come in --------------------------------------------------------------------------------------

    def admit(self, turn: "Turn") -> None:
        """Make the message durable, and only then tell its sender that it was accepted."""
        if self._admitting is None:
            self._admitting = []
        self._admitting.append(turn)
        if len(self._admitting) == 1:
            self._activation.runtime.spawn(self._admit())

    async def _admit(self) -> None:
        turns, self._admitting = self._admitting or [], None
        turns = [turn for turn in turns if not turn.row and self.inbox.holds(turn)]
        if not turns:
            return
        put: dict[bytes, bytes] = {}
        for turn in [*self._asked_before(turns[-1]), *turns]:
            if not turn.row:  # a request may be among both
                self._put_message(put, turn)
        if await self._activation.write(self.compose(put=put)):
            for turn in turns:
                turn.accepted()

    def _asked_before(self, turn: "Turn") -> "Iterator[Turn]":
        """Requests that are to run before the message: after a crash they would come later, if they were not stored."""
        for earlier in takewhile(lambda other: other is not turn, self.inbox.turns()):
            if earlier.row or earlier.ended:
                continue
            if earlier.request.mode is Mode.ASK and earlier.spec.lane is Lane.TURN:
                yield earlier

    def _put_message(self, put: dict[bytes, bytes], turn: "Turn") -> None:
        request = turn.request
        turn.row = True
        self.rows += 1
        put[MESSAGE + turn.number] = encode(Pending(request, turn.adoptions, turn.into))
        if request.number:
            put[PAIR + request.sender.encode()] = request.number
        if turn.reminder is not None:
            self._reminders().advance(turn.reminder, put, self._drop)
            self._then.append(self._reminders().start)
            turn.reminder = None
        if turn.seen:
            self.turn_log.accepted(turn, put, self._now())

    # -- commits ----------------------------------------------------------------------------------------------------

    def compose(
        self,
        *,
        state: bytes | None = None,
        put: Mapping[bytes, bytes] | None = None,
        drop: Sequence[bytes] = (),
        erase: bool = False,
        asleep: bool = False,
    ) -> Write:
        """A commit of these effects and of everything that waited for one. It must be handed to the store at once."""
        dropped, self._drop = [*self._drop, *self.inbox.take_forgotten(), *drop], []
        if self.outbox is not None:
            dropped += self.outbox.take_delivered()
        cut, self._cut = self._cut, []
        waiting, self._put = self._put, {}
        if erase:
            waiting.pop(WRITTEN_BY, None)
        wake = self._next_wake()
        changed, self._wake = wake != self._wake or erase, wake
        then, self._then = self._then, []
        return Write(
            Commit(
                address=self._activation.address,
                epoch=self._activation.epoch,
                state=state,
                put={**waiting, **(put or {})} if waiting else put or {},
                drop=dropped,
                cut=cut,
                erase=erase,
                wake=wake if changed else UNSET,
                asleep=asleep,
            ),
            then,
        )

    def _next_wake(self) -> float | None:
        now = self._activation.runtime.clock.time()
        if (self.rows > 0 and not self._waits) or (self.outbox is not None and self.outbox.pending):
            return self._wake if self._wake is not None and self._wake <= now else min((now, *self._times()))
        return min(self._times(), default=None)

    def _times(self) -> Iterator[float]:
        """When there is something to do, if not now."""
        if self.wait is not None and self.wait.deadline != float("inf"):
            yield self.wait.deadline
        for source in (self.reminders, self.trimmer):
            due = source.next_due() if source is not None else None
            if due is not None:
                yield due

    @property
    def _waits(self) -> bool:
        """Whether the oldest message waits for what is not there yet, and the others for that."""
        if self.wait is None or self.wait.turn.interruption.pending:
            return False
        return not self.signals.has(self.wait.name)

    @property
    def wake_is_stale(self) -> bool:
        """Whether the store does not know when there is something to do."""
        return self._next_wake() != self._wake

    def forgive(self, turn: "Turn") -> None:
        """With the next commit the starts of a message so far count for nothing: it came to where it waits."""
        turn.adoptions = -1
        self._put[MESSAGE + turn.number] = encode(Pending(turn.request, turn.adoptions, turn.into))

    def journal(
        self,
        turn: "Turn",
        put: dict[bytes, bytes],
        *,
        drop: Sequence[bytes] = (),
        effects: Effects | None = None,
        publish: tuple[str, list[ChannelItem]] | None = None,
        messages: "Sequence[Turn]" = (),
        tell: Told = (),
    ) -> tuple[Write, int]:
        """A commit in the middle of a turn: from now on its message is run to its end, whatever happens.

        Returns it with the offset of the first entry that it publishes. See ``Journal.write``.
        """
        offset = -1
        if effects:
            self.check_open(effects)
        for message in (turn, *messages):
            if not message.row:
                self._put_message(put, message)
        self.turn_log.started(turn, put, self._now())
        if tell:
            self.turn_log.tell(turn, put, tell, self._now())
        if effects:
            also, gone = self._gather(effects)
            put.update(also)
            drop = [*drop, *gone]
        if publish is not None:
            offset = self.publish(*publish, put)
        return self.compose(put=put, drop=[*drop, *turn.ride(put)]), offset

    def apart(self, effects: Effects, state: bytes | None = None) -> Write:
        """A commit of effects that belong to no turn, and of a new state."""
        put, drop = self._gather(effects)
        return self.compose(state=self._replace_state(state, put, drop), put=put, drop=drop)

    def _replace_state(self, state: bytes | None, put: dict[bytes, bytes], drop: list[bytes]) -> bytes | None:
        """Add to a commit that this is the state; return it if it is stored whole."""
        if state is None or self.state is None:
            return None
        self._then.append(partial(self.state.stored, state))
        return self.state.write(state, put, drop)

    def settle(self, turn: "Turn", answer: Envelope, state: bytes | None) -> Write | None:
        """The commit that ends a turn, None if there is nothing to write."""
        request, effects = turn.request, turn.effects or _NO_EFFECTS
        # What it asked others is forgotten there once it is over: then it must not run again, and ask again, either.
        kept = turn.answerable and (request.key or turn.asked)
        steered = turn.steered_by(answer)
        writes = effects or turn.row or kept or turn.interrupted or steered or turn.seen
        if state is None and not writes:
            return None
        self._then.append(partial(self.inbox.settled, turn))
        told = (turn.run is not None or turn.seen or self._turn_log is not None) and not effects.erase
        heads = self.turn_log.heads() if told else {}
        put, drop = self._gather(effects)
        if told:
            self.turn_log.ended(turn, put, drop, answer=answer, heads=heads, at=self._now())
        drop += turn.journaled or self._unread_journal(turn)
        self._settle_message(turn, answer, put, drop)
        for other, reply in steered:
            other.ended = True
            self._then.append(partial(self.inbox.settled, other))
            self.turn_log.steered(other, put, into=turn.id, at=self._now())
            self._settle_message(other, reply, put, drop)
        if effects.erase:
            self._keep_what_waits(put)
            state = None
        else:
            state = self._replace_state(state, put, drop)
        return self.compose(state=state, put=put, drop=drop, erase=effects.erase)

    def _settle_message(self, turn: "Turn", answer: Envelope, put: dict[bytes, bytes], drop: list[bytes]) -> None:
        """Add to a commit that a message is settled with this answer."""
        request = turn.request
        if turn.interrupted:
            interrupt = INTERRUPT + request.message_id.encode()
            self._put.pop(interrupt, None)
            drop.append(interrupt)
        self.rows -= turn.row
        if request.number and not turn.row:
            put[PAIR + request.sender.encode()] = request.number
        if self.inbox.keep_answer(turn, self._for_repeats(turn, answer), put):
            if isinstance(answer, Reply | Failure | Accepted):
                answer.recorded = True
        elif turn.row:
            drop.append(MESSAGE + turn.number)

    @staticmethod
    def _for_repeats(turn: "Turn", answer: Envelope) -> bytes:
        return encode(answer) if turn.request.mode is Mode.ASK or turn.request.key else b""

    def _gather(self, effects: Effects) -> tuple[dict[bytes, bytes], list[bytes]]:
        put, drop = dict(effects.put), list(effects.drop)
        if effects.sends:
            rows = [(self.next_number(), sent) for sent in effects.sends]
            put.update({OUTBOX + number: encode(sent) for number, sent in rows})
            self._outbox().pending += len(rows)
            self._then.append(partial(self._outbox().add, rows))
        for name, items in effects.items.items():
            self.publish(name, items, put)
        for name, value in effects.signals:
            key = self.signals.put(name, value, self.next_number(), put, at=self._now())
            self._then.append(partial(self.signals.came, name, key, value))
        if effects.reminders:
            self._reminders().change(effects.reminders, put, drop)
            self._then.append(self._reminders().start)
        return put, drop

    def check_open(self, effects: Effects) -> None:
        """Raise ``ChannelClosed`` if a channel that the effects publish to was closed meanwhile."""
        for name, items in effects.items.items():
            channel = self.channel(name)
            if channel.closed and items[0].kind != "closed":
                raise channel.is_closed(self._activation.address)

    def publish(self, name: str, items: Sequence[ChannelItem], put: dict[bytes, bytes]) -> int:
        """Add entries of a channel to a commit, and show them to its readers afterwards; return the first offset."""
        channel = self.channel(name)
        first = channel.next
        if channel.closed:  # nothing but one who closes it again
            return first
        stored = channel.append(put, self._cut, items, self._activation.runtime.clock.time())
        if channel.first > channel.begin:
            self._then.append(partial(channel.trimmed, channel.first))
        self._then.append(partial(channel.committed, first, stored))
        if self.trimmer is not None:
            self._then.append(partial(self.trimmer.published, channel))
        return first

    def trim(self, channel: ChannelLog, first: int, oldest: float) -> Write:
        """A commit that removes the entries before offset ``first``; no other one is older than ``oldest``."""
        put: dict[bytes, bytes] = {}
        channel.oldest = oldest
        channel.trim(put, self._cut, first)
        self._then.append(partial(channel.trimmed, channel.first))
        return self.compose(put=put)

    def _keep_what_waits(self, put: dict[bytes, bytes]) -> None:
        """Of everything that is erased keep the messages that wait, and where the channels have come to."""
        for turn in self.inbox.turns():
            if turn.row and not turn.ended:
                put[MESSAGE + turn.number] = encode(Pending(turn.request))
        self._drop, self._put, self.reminders, self._signals = [], {}, None, None
        if self.channels:  # the offset before the floor is that of the event which says that they ended
            self.floor = max(channel.next for channel in self.channels.values()) + 1
        if self.floor:
            put[FLOOR] = encode(self.floor)
        for channel in (self.channels or {}).values():
            channel.doomed = True
            self._then.append(channel.erase)

    def park(self, turn: "Turn", reason: str) -> Write:
        """The commit that takes a message out of the inbox until an operator decides; its journal stays."""
        self.inbox.remove(turn)
        self.inbox.parked[turn.request.message_id] = reason
        self.rows -= turn.row
        row = Parked(turn.request, reason, self._activation.runtime.clock.time())
        put, drop = {PARKED + turn.number: encode(row)}, [MESSAGE + turn.number]
        self.turn_log.parked(turn, put, drop, reason=reason, at=self._now())
        return self.compose(put=put, drop=drop)

    def withdraw(self, turn: "Turn", why: ActorError) -> None:
        """The message is not run after all; the next commit removes it, which comes soon."""
        if turn.told:
            self.turn_log.withdrawn(turn, self._put, why=why, at=self._now())
        self._drop.append(MESSAGE + turn.number)
        self.rows -= 1
        self.flush()

    def interrupt(self, turn: "Turn") -> None:
        """With the next commit a message is stopped as often as it was here also if it has to run again."""
        stopped = turn.interruption
        first, *later = stopped.reasons
        row = records.Interrupt(first, self._activation.runtime.clock.time(), stopped.rollback, later)
        self._put[INTERRUPT + turn.id.encode()] = encode(row)

    def adopt(self, turn: "Turn") -> Write:
        """The commit that counts one more start of a message that a lost silo had begun."""
        turn.adoptions += 1
        return self.compose(put={MESSAGE + turn.number: encode(Pending(turn.request, turn.adoptions))})

    def give_back(self, turn: "Turn") -> Write:
        """The commit that lets the next start of a message not count: this silo leaves in good order."""
        put: dict[bytes, bytes] = {}
        if not turn.row:
            self._put_message(put, turn)
        put[MESSAGE + turn.number] = encode(Pending(turn.request, turn.adoptions - 1))
        return self.compose(put=put)

    def fall_asleep(self, state: bytes | None) -> Write | None:
        """The last commit, which leaves the wake-up time to whoever is there; None if there is nothing to say."""
        if self._wake is None and state is None:
            return None
        put: dict[bytes, bytes] = {}
        drop: list[bytes] = []
        if state is not None and self.state is not None:
            state = self.state.write(state, put, drop)
        return self.compose(state=state, put=put, drop=drop, asleep=self._wake is not None)

    def flush(self) -> None:
        """Tell the store what can go, unless another commit does so first."""
        self._activation.runtime.spawn(self._flush())

    async def _flush(self) -> None:
        if self._drop or self._put or (self.outbox is not None and self.outbox.has_delivered):
            await self._activation.write(self.compose())
