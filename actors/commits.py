"""The commits of an activation with ``persist="turn"``: the one in which a turn changes state, inbox, outbox, reminders
and channels, and those in the middle of a turn or beside it.

A commit is composed and handed to the store without an await in between, so that the store applies what belongs to one
address in the order in which it was composed: whoever calls here hands over at once what is returned, as ``_flush``
does. Nothing else in here waits.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from actors import records
from actors.channel_log import ChannelLog, Cut
from actors.effects import Effects
from actors.envelope import Accepted, Envelope, Failure, Mode, Reply
from actors.errors import ActorError
from actors.ports import Commit
from actors.progress import Told
from actors.records import (
    FLOOR,
    INTERRUPT,
    MESSAGE,
    OUTBOX,
    PAIR,
    PARKED,
    WRITTEN_BY,
    ChannelItem,
    Parked,
    Pending,
    encode,
)

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.durable import Durable
    from actors.turn import Turn

_NO_EFFECTS = Effects()


class Write(NamedTuple):
    """A commit, and what may happen once it is durable."""

    commit: Commit
    then: list[Callable[[], None]]


class Commits:
    """Composes the commits of one activation from what ends or happens there, and from what waits for the next one."""

    __slots__ = ("_activation", "_cut", "_drop", "_durable", "_put", "_then")

    def __init__(self, activation: "Activation", durable: "Durable") -> None:
        self._activation = activation
        self._durable = durable
        self._put: dict[bytes, bytes] = {}  # what goes with the next commit
        self._drop: list[bytes] = []
        self._cut: list[Cut] = []
        self._then: list[Callable[[], None]] = []

    def mark(self, written_by: bytes) -> None:
        """With the next commit goes whose commits these are."""
        self._put[WRITTEN_BY] = written_by

    def add_message(self, put: dict[bytes, bytes], turn: "Turn") -> None:
        """Add to a commit that the message is in the inbox."""
        request = turn.request
        turn.row = True
        self._durable.rows += 1
        put[MESSAGE + turn.number] = encode(Pending(request, turn.adoptions, turn.into))
        if request.number:
            put[PAIR + request.sender.encode()] = request.number
        if turn.reminder is not None:
            reminders = self._durable.need_reminders()
            reminders.advance(turn.reminder, put, self._drop)
            self._then.append(reminders.start)
            turn.reminder = None
        if turn.seen:
            self._durable.turn_log.accepted(turn, put, self._now())

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
        inbox, outbox = self._durable.inbox, self._durable.outbox
        dropped, self._drop = [*self._drop, *inbox.take_forgotten(), *drop], []
        if outbox is not None:
            dropped += outbox.take_delivered()
        cut, self._cut = self._cut, []
        waiting, self._put = self._put, {}
        if erase:
            waiting.pop(WRITTEN_BY, None)
        wake_up = self._durable.wake_up
        wake = wake_up.time()
        changed, wake_up.known = wake != wake_up.known or erase, wake
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
                self.add_message(put, message)
        self._durable.turn_log.started(turn, put, self._now())
        if tell:
            self._durable.turn_log.tell(turn, put, tell, self._now())
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
        if state is None or self._durable.state is None:
            return None
        self._then.append(partial(self._durable.state.stored, state))
        return self._durable.state.write(state, put, drop)

    def settle(self, turn: "Turn", answer: Envelope, state: bytes | None) -> Write | None:
        """The commit that ends a turn, None if there is nothing to write."""
        effects = turn.effects or _NO_EFFECTS
        steered = turn.steered_by(answer)
        writes = effects or turn.row or turn.is_remembered or turn.interrupted or steered or turn.seen
        if state is None and not writes:
            return None
        self._then.append(partial(self._durable.inbox.settled, turn))
        told = (turn.run is not None or turn.seen or self._durable.has_turn_log) and not effects.erase
        heads = self._durable.turn_log.heads() if told else {}
        put, drop = self._gather(effects)
        if told:
            self._durable.turn_log.ended(turn, put, drop, answer=answer, heads=heads, at=self._now())
        drop += turn.journaled or self._durable.unread_journal(turn)
        self._settle_message(turn, answer, put, drop)
        for other, reply in steered:
            other.ended = True
            self._then.append(partial(self._durable.inbox.settled, other))
            self._durable.turn_log.steered(other, put, into=turn.id, at=self._now())
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
        self._durable.rows -= turn.row
        if request.number and not turn.row:
            put[PAIR + request.sender.encode()] = request.number
        if self._durable.inbox.keep_answer(turn, self._for_repeats(turn, answer), put):
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
            rows = [(self._durable.next_number(), sent) for sent in effects.sends]
            put.update({OUTBOX + number: encode(sent) for number, sent in rows})
            outbox = self._durable.need_outbox()
            outbox.pending += len(rows)
            self._then.append(partial(outbox.add, rows))
        for name, items in effects.items.items():
            self.publish(name, items, put)
        for name, value in effects.signals:
            key = self._durable.signals.put(name, value, self._durable.next_number(), put, at=self._now())
            self._then.append(partial(self._durable.signals.came, name, key, value))
        if effects.reminders:
            reminders = self._durable.need_reminders()
            reminders.change(effects.reminders, put, drop)
            self._then.append(reminders.start)
        return put, drop

    def check_open(self, effects: Effects) -> None:
        """Raise ``ChannelClosed`` if a channel that the effects publish to was closed meanwhile."""
        for name, items in effects.items.items():
            channel = self._durable.channel(name)
            if channel.closed and items[0].kind != "closed":
                raise channel.is_closed(self._activation.address)

    def publish(self, name: str, items: Sequence[ChannelItem], put: dict[bytes, bytes]) -> int:
        """Add entries of a channel to a commit, and show them to its readers afterwards; return the first offset."""
        channel = self._durable.channel(name)
        first = channel.next
        if channel.closed:  # nothing but one who closes it again
            return first
        stored = channel.append(put, self._cut, items, self._now())
        if channel.first > channel.begin:
            self._then.append(partial(channel.trimmed, channel.first))
        self._then.append(partial(channel.committed, first, stored))
        if self._durable.trimmer is not None:
            self._then.append(partial(self._durable.trimmer.published, channel))
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
        for turn in self._durable.inbox.turns():
            if turn.row and not turn.ended:
                put[MESSAGE + turn.number] = encode(Pending(turn.request))
        self._drop, self._put = [], {}
        self._durable.forget()
        if self._durable.floor:
            put[FLOOR] = encode(self._durable.floor)
        for channel in (self._durable.channels or {}).values():
            self._then.append(channel.erase)

    def park(self, turn: "Turn", reason: str) -> Write:
        """The commit that takes a message out of the inbox until an operator decides; its journal stays."""
        self._durable.inbox.remove(turn)
        self._durable.inbox.parked[turn.request.message_id] = reason
        self._durable.rows -= turn.row
        row = Parked(turn.request, reason, self._now())
        put, drop = {PARKED + turn.number: encode(row)}, [MESSAGE + turn.number]
        self._durable.turn_log.parked(turn, put, drop, reason=reason, at=self._now())
        return self.compose(put=put, drop=drop)

    def withdraw(self, turn: "Turn", why: ActorError) -> None:
        """The message is not run after all; the next commit removes it, which comes soon."""
        if turn.told:
            self._durable.turn_log.withdrawn(turn, self._put, why=why, at=self._now())
        self._drop.append(MESSAGE + turn.number)
        self._durable.rows -= 1
        self.flush()

    def interrupt(self, turn: "Turn") -> None:
        """With the next commit a message is stopped as often as it was here also if it has to run again."""
        stopped = turn.interruption
        first, *later = stopped.reasons
        row = records.Interrupt(first, self._now(), stopped.rollback, later)
        self._put[INTERRUPT + turn.id.encode()] = encode(row)

    def adopt(self, turn: "Turn") -> Write:
        """The commit that counts one more start of a message that a lost silo had begun."""
        turn.adoptions += 1
        return self.compose(put={MESSAGE + turn.number: encode(Pending(turn.request, turn.adoptions))})

    def give_back(self, turn: "Turn") -> Write:
        """The commit that lets the next start of a message not count: this silo leaves in good order."""
        put: dict[bytes, bytes] = {}
        if not turn.row:
            self.add_message(put, turn)
        put[MESSAGE + turn.number] = encode(Pending(turn.request, turn.adoptions - 1))
        return self.compose(put=put)

    def fall_asleep(self, state: bytes | None) -> Write | None:
        """The last commit, which leaves the wake-up time to whoever is there; None if there is nothing to say."""
        if self._durable.wake_up.known is None and state is None:
            return None
        put: dict[bytes, bytes] = {}
        drop: list[bytes] = []
        if state is not None and self._durable.state is not None:
            state = self._durable.state.write(state, put, drop)
        return self.compose(state=state, put=put, drop=drop, asleep=self._durable.wake_up.known is not None)

    def flush(self) -> None:
        """Tell the store what can go, unless another commit does so first."""
        self._activation.runtime.spawn(self._flush())

    async def _flush(self) -> None:
        if self._drop or self._put or (self._durable.outbox is not None and self._durable.outbox.has_delivered):
            await self._activation.write(self.compose())

    def _now(self) -> float:
        return self._activation.runtime.clock.time()
