"""The durable side of an activation with ``persist="turn"``: what the store knows of it beside its state.

How that changes is in ``commits.py``.
"""

import asyncio
from typing import TYPE_CHECKING

import msgspec

from actors import records
from actors.admission import Admission
from actors.channel_log import ChannelLog
from actors.commits import Commits
from actors.durable_state import DurableState
from actors.envelope import Request
from actors.errors import StateUnreadable
from actors.inbox import Inbox
from actors.outbox import Outbox
from actors.ports import Opened
from actors.records import (
    BESIDE,
    CHANNEL,
    FLOOR,
    INTERRUPT,
    JOURNAL,
    MESSAGE,
    OUTBOX,
    PARKED,
    REMINDER,
    RUN,
    SIGNAL,
    ChannelHead,
    Parked,
    Pending,
    Reminder,
)
from actors.release import RELEASE
from actors.reminders import Reminders
from actors.retention import SYSTEM, Trimmer
from actors.signals import Signals
from actors.turn_log import TURNS, TurnLog
from actors.wake_up import WakeUp

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.turn import Turn
    from actors.waiting import Wait

_UNKNOWN = float("nan")


class Counter:
    """Counts the numbers of one epoch, also over several activations under one claim."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Durable:
    """What the store knows of an activation beside its state, or will know with the commits under way."""

    __slots__ = (
        "_activation", "_journals", "_readers_ended", "_signals", "_turn_log", "_written", "admission", "channels",
        "commits", "counter", "floor", "inbox", "outbox", "reminders", "rows", "state", "trimmer", "wait", "wake_up",
        "writes",
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
        keep = activation.type.options.channel_retention
        self.trimmer = Trimmer(activation, keep) if keep.bytes is not None or keep.age is not None else None
        self.floor = 0
        """Where new channels begin: above all that were deleted, and the event that ended them."""
        self._written: asyncio.Event | None = None
        self._turn_log: TurnLog | None = None
        self._signals: Signals | None = None
        self.wait: Wait | None = None
        """What the running turn waits for, if it does nothing else."""
        self._readers_ended = False
        self.wake_up = WakeUp(activation, self)
        self.admission = Admission(activation, self)
        self.commits = Commits(activation, self)

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
        self.wake_up.known = _UNKNOWN if pending else self.wake_up.time()
        return pending

    def _load(self, kind: bytes, rest: bytes, value: bytes) -> None:
        if kind == OUTBOX:
            self.need_outbox().restore(rest, msgspec.msgpack.decode(value, type=Request))
        elif kind == REMINDER:
            self.need_reminders().rows[rest.decode()] = msgspec.msgpack.decode(value, type=Reminder)
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
        return self.writes > 0 or self.admission.pending or (self.outbox is not None and self.outbox.busy)

    def write_ended(self) -> None:
        """A commit has been answered."""
        self.writes -= 1
        if self._written is not None and not self.writes:
            self._written.set()

    async def written(self) -> None:
        """Return when no commit is under way."""
        while self.admission.pending or self.writes:
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

    def unread_journal(self, turn: "Turn") -> list[bytes]:
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

    def need_outbox(self) -> Outbox:
        """The outbox, made at first need."""
        if self.outbox is None:
            self.outbox = Outbox(self._activation)
        return self.outbox

    def need_reminders(self) -> Reminders:
        """The reminders, made at first need."""
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
    def has_turn_log(self) -> bool:
        """Whether turns are told of since some time."""
        return self._turn_log is not None

    @property
    def is_watched(self) -> bool:
        """Whether somebody reads the channel of turns."""
        log = self.channels.get(TURNS) if self.channels else None
        return log is not None and log.is_read

    @property
    def tells_of_turns(self) -> bool:
        """Whether the next turn would be told of."""
        return self.has_turn_log or self.is_watched

    def next_number(self) -> bytes:
        """A number above all that this address has ever used."""
        self.counter.value += 1
        return records.number(self._activation.epoch, self.counter.value)

    def forget(self) -> None:
        """Everything is erased: what is left is where new channels begin."""
        self.reminders, self._signals = None, None
        if self.channels:  # the offset before the floor is that of the event which says that they ended
            self.floor = max(channel.next for channel in self.channels.values()) + 1
            for channel in self.channels.values():
                channel.doomed = True
