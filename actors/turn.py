"""One message being handled: a turn, or a call in the read-only or control lane."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from actors import failure
from actors.builtin import OWN, SUBSCRIBE, TIMER
from actors.context import Context
from actors.effects import Effects
from actors.envelope import Accepted, Envelope, Failure, Mode, Reply, Request
from actors.errors import (
    ActorError,
    OutcomeUnknown,
)
from actors.handler import HandlerSpec, Lane
from actors.interruption import Interruption
from actors.journal import Journal
from actors.progress import Told
from actors.records import Run
from actors.reminders import Due
from actors.steering import Steering
from actors.step import current_step
from actors.turn_log import WATCH
from actors.view import View

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.channel_log import ChannelLog
    from actors.guest import Guest, LocalCaller

log = logging.getLogger("actors")


class Nobody:
    """Where the answers to messages go that nobody waits for: reminders, timers, what a former activation left."""

    closed = True

    def send(self, envelope: Envelope) -> None:
        """Say nothing."""


NOBODY = Nobody()


class Turn:
    """A request on its way through an activation: queued, running, settled."""

    __slots__ = (
        "_admitted", "_calls", "_context", "_interruption", "_journal", "_room", "activation", "adoptions", "asked",
        "began", "came", "credit", "effects", "ended", "expires", "holds", "into", "joiners", "kept_until", "known_as",
        "left", "number", "origin", "park_for", "pinned", "recorded", "recovered", "reminder", "request", "rests",
        "row", "run", "said", "spec", "steering", "task", "told", "undone_by", "view",
    )  # fmt: skip

    def __init__(
        self,
        activation: "Activation",
        request: Request,
        origin: "Guest | LocalCaller | Nobody",
        spec: HandlerSpec,
        expires: float,
    ) -> None:
        self.activation = activation
        self.request = request
        self.origin = origin
        self.spec = spec
        self.expires = expires
        self.task: asyncio.Task[None] | None = None
        self.credit = request.credit
        self.left = False
        self.came = self.began = 0.0
        """When it was accepted, and when its handler began here, on the loop's clock; 0: not here, or not yet."""
        self.told = False
        """Whether the channel of turns tells of its acceptance."""
        self.number = b""
        """Of its row in the durable inbox, if it gets one: its place among the actor's messages."""
        self.row = False
        """Whether the store has it, or will have with a commit that is under way."""
        self.said = False
        """Whether a sender was told that it is accepted."""
        self.recorded = True
        """Whether its answer is kept for repeats."""
        self.recovered = False
        """Whether a former activation has left it."""
        self.adoptions = 0
        self.park_for: str | None = None
        self.reminder: Due | None = None
        self.ended = False
        """Whether its handler is over: what tasks that it left behind still do is no part of it."""
        self.known_as = ""
        """The id of the message that it repeats, if that came with another one."""
        self.kept_until = 0.0
        """When its answer, kept for repeats, expires."""
        self.effects: Effects | None = None
        self.holds: frozenset[ChannelLog] = frozenset()
        """The channels to which it has published what may not be committed yet."""
        self.asked: list[tuple[str, str]] | None = None
        """Address and message id of the recorded answers that this turn got."""
        self.joiners: list[Turn] | None = None
        self.run: Run | None = None
        """What the channel of turns tells of its beginning, if it does."""
        self.view: View | None = None
        """What a read-only call sees, if that is not the actor itself."""
        self.into = ""
        """Id of the message whose turn it was handed to when it came."""
        self.steering: Steering | None = None
        """What it has read while it runs, if it has looked."""
        self.rests = False
        """Whether its handler waits for a signal."""
        self.pinned = False
        """Whether the activation holds something for it that would be lost: it must not go while this turn waits."""
        self.undone_by = ""
        """Which control call has failed while this one ran, so that what both had changed is undone."""
        self._journal: Journal | None = None
        self._calls: dict[bytes, int] | None = None
        self._admitted: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._interruption: Interruption | None = None
        self._context: Context | None = None

    def again(self, activation: "Activation") -> "Turn":
        """The same message for another activation."""
        turn = Turn(activation, self.request, self.origin, self.spec, self.expires)
        turn.credit, turn.left, turn.said, turn.joiners = self.credit, self.left, self.said, self.joiners
        turn.recorded, turn.reminder, turn.park_for = self.recorded, self.reminder, self.park_for
        turn.into, turn.came, turn.told = self.into, self.came, self.told
        turn._interruption = self._interruption if self.task is None and not self.ended else None
        if self.request.mode is Mode.STREAM and not self.left:
            activation.runtime.remember_stream(turn)
        return turn

    @property
    def id(self) -> str:
        """The id of its message."""
        return self.request.message_id

    @property
    def address(self) -> str:
        """The address of the actor."""
        return self.request.address

    @property
    def where(self) -> str:
        """The address and handler, for messages."""
        return f"{self.request.address}.{self.spec.name or 'receive'}"

    @property
    def context(self) -> Context:
        """What user code may know of the message."""
        if self._context is None:
            request = self.request
            deadline = self.expires if self.expires != float("inf") else None
            headers = {name: value for name, value in request.headers.items() if not name.startswith("$")}
            self._context = Context(request.sender, request.message_id, deadline, request.key, headers)
        return self._context

    @property
    def chain(self) -> tuple[tuple[str, str], ...]:
        """The turns that wait while a call made by this one is under way."""
        if self.spec.lane is not Lane.TURN:
            return self.request.chain
        return (*self.request.chain, (self.request.address, self.request.message_id))

    # -- what it does -----------------------------------------------------------------------------------------------

    @property
    def gathers(self) -> bool:
        """Whether what it does to the world is committed with it."""
        if self.activation.durable is None or self.spec.lane is Lane.READ or self.ended:
            return False
        return self.activation.runs(self)

    @property
    def goes_on(self) -> bool:
        """Whether it is run here, and not given up."""
        return self.ended or self.activation.runs(self)

    @property
    def reads_only(self) -> bool:
        """Whether it must change nothing."""
        return self.spec.lane is Lane.READ and not self.ended

    @property
    def changes_apart(self) -> bool:
        """Whether it may change the state beside a turn, or without one."""
        return self.spec.lane is Lane.CONTROL and not self.spec.builtin

    @property
    def steers(self) -> bool:
        """Whether it may read messages that come while it runs."""
        return self.spec.lane is Lane.TURN and not self.ended and self.activation.runs(self)

    @property
    def dormant(self) -> bool:
        """Whether it waits for a signal, and nothing else of it goes on as far as the engine knows."""
        return self.rests and self.journal.idle

    def is_own_task(self) -> bool:
        """Whether the handler itself runs now, and not some task that it has started."""
        return asyncio.current_task() is self.task

    @property
    def answerable(self) -> bool:
        """Whether somebody waits for its answer, or may ask for it again."""
        return self.request.mode is not Mode.STREAM and self.request.handler not in OWN

    @property
    def is_remembered(self) -> bool:
        """Whether its answer is kept though it changed nothing: it must not run again and do what it did not do here.

        What it asked others is forgotten there once it is over. And an earlier attempt of it may come later.
        """
        may_come_again = self.request.attempt > 0 and self.spec.lane is not Lane.READ
        return self.answerable and bool(self.request.key or self.asked or may_come_again)

    @property
    def waits_for_row(self) -> bool:
        """Whether it must not start before it is durable: an earlier attempt may have taken its silo with it."""
        return self.request.mode is Mode.SEND and self.request.attempt > 0 and not self.said

    @property
    def gathered(self) -> Effects:
        """What it, or the step that is running now, has done to the world so far."""
        step = current_step.get()
        if step is not None:
            return step.effects
        if self.effects is None:
            self.effects = Effects()
        return self.effects

    def has_closed(self, channel: str) -> bool:
        """Whether it, or the step that is running now, closes the channel."""
        step = current_step.get()
        for effects in (self.effects, step.effects if step is not None else None):
            items = effects.items.get(channel) if effects is not None else None
            if items and items[-1].kind == "closed":
                return True
        return False

    def hold(self, log: "ChannelLog") -> None:
        """It has published what is not committed yet: nobody else closes the channel before."""
        if log not in self.holds:
            self.holds = self.holds | {log}

    @property
    def journals(self) -> bool:
        """Whether it may have steps: not so the turn of a timer, which is lost with its activation."""
        return self.request.handler != TIMER

    @property
    def journal(self) -> Journal:
        """Its steps. Raises ``RuntimeError`` for the turn of a timer."""
        if not self.journals:
            raise RuntimeError(
                f"{self.address}: a timer's turn has no steps; use remind(), or send a message to yourself"
            )
        if self._journal is None:
            self._journal = Journal(self, self.activation.durable_side.journal_of(self))
        return self._journal

    @property
    def watched(self) -> bool:
        """Whether its sender wants it told of in the channel of turns from the first."""
        return WATCH in self.request.headers

    @property
    def seen(self) -> bool:
        """Whether all of it is told of: its sender wants that, or somebody reads the channel of turns now."""
        if self.spec.lane is not Lane.TURN or self.activation.durable is None:
            return False
        return self.watched or self.activation.durable.is_watched

    @property
    def interruption(self) -> Interruption:
        """Whether somebody stops it."""
        if self._interruption is None:
            self._interruption = Interruption()
        return self._interruption

    def interrupt(self, reason: str, *, rollback: bool = False) -> bool:
        """Stop it, see ``Activation.stop``. Whether it will hear of it: not so if its handler has ended."""
        now = self.activation.runtime.loop.time()
        return not self.ended and self.interruption.request(reason, now, rollback=rollback)

    @property
    def interrupted(self) -> bool:
        """Whether somebody has stopped it, at any time."""
        return self._interruption is not None and bool(self._interruption.reasons)

    @property
    def rolls_back(self) -> bool:
        """Whether nothing of it is to stay."""
        return self._interruption is not None and self._interruption.rollback

    def messages(self) -> AsyncIterator[Any]:
        """See ``Actor.steering``."""
        if self.steering is None:
            self.steering = Steering(self)
        return self.steering.messages()

    def steered_by(self, answer: Envelope) -> "list[tuple[Turn, Reply | Accepted]]":
        """The messages that it has read and that are settled with it, and what their senders get."""
        return self.steering.settled(answer) if self.steering is not None else []

    @property
    def untold(self) -> Told:
        """What the channel of turns was not told yet of its steps."""
        return self._journal.quick.tell(self.activation.runtime.loop.time()) if self._journal is not None else ()

    def take_untold(self) -> list[tuple[str, float]]:
        """The same, to be told with its end."""
        return self._journal.quick.take() if self._journal is not None else []

    def ride(self, put: dict[bytes, bytes]) -> list[bytes]:
        """Add to a commit in its middle what its streams have waiting; return the keys that go."""
        writers = self._journal.writers if self._journal is not None else ()
        return [key for writer in writers for key in writer.ride(put)]

    @property
    def journaled(self) -> list[bytes]:
        """The keys of rows that go with it."""
        return self._journal.keys if self._journal is not None else []

    def let_go(self) -> None:
        """It is over: let go what refers back to it, so that all of it is gone at once, without the collector."""
        if self._journal is not None:
            self._journal.writers.clear()
        self._journal = self.steering = None
        self.holds = frozenset()

    def check_runs(self) -> None:
        """Raise ``CancelledError`` if it may have no effect any more.

        Also where the silo has slept through its lease and does not know yet: whatever comes next would be done twice.
        """
        runtime = self.activation.runtime
        if not runtime.may_act():
            runtime.stop_acting()
        if self.ended or not self.activation.runs(self):
            raise asyncio.CancelledError(f"{self.where}: the turn is over, or was given up")

    def call_id(self, digest: bytes) -> str:
        """The id of a message that it asks another actor: the same when it runs again and asks the same."""
        if self._calls is None:
            self._calls = {}
        count = self._calls[digest] = self._calls.get(digest, 0) + 1
        return f"{self.request.message_id}/{digest.hex()}.{count}"

    async def admitted(self) -> None:
        """Return when the message itself is durable, if it was promised to be."""
        if self.number and not self.said and self.request.mode is Mode.SEND:
            if self._admitted is None:
                self._admitted = self.activation.runtime.loop.create_future()
            await asyncio.shield(self._admitted)

    def add_credit(self, amount: int) -> None:
        """The reader has room again."""
        self.credit += amount
        self._wake()

    def leave(self) -> None:
        """The reader is gone."""
        self.left = True
        if self.spec.name == SUBSCRIBE and self.task is not None:
            # It does nothing but read. One that has not begun yet must begin: else it would not end in good order.
            self.activation.runtime.loop.call_soon(self.task.cancel)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- what its senders are told ----------------------------------------------------------------------------------

    def accepted(self) -> None:
        """Tell the sender of a one-way message that it was taken."""
        if self.request.mode is not Mode.SEND or self.said:
            return
        self.said = True
        recorded = self.activation.durable is not None and self.recorded
        self.origin.send(Accepted(self.request.id, recorded, self.known_as))
        if self._admitted is not None and not self._admitted.done():
            self._admitted.set_result(None)
        for joiner in self.joiners or ():
            joiner.accepted()
        if self.request.attempt:
            self.activation.look_for_work()

    def join(self, repeat: "Turn") -> None:
        """The same message has come again: its sender gets the same answer."""
        if repeat.request.mode is Mode.SEND and self.said:
            repeat.accepted()
        else:
            self.joiners = self.joiners or []
            self.joiners.append(repeat)

    def answer_again(self, answer: Reply | Failure | None) -> None:
        """The message was settled before: its sender gets the answer of then."""
        if self.request.mode is Mode.SEND:
            self.accepted()
        elif answer is None:
            self.refuse(OutcomeUnknown(f"{self.where}: the message ran, and its answer is not kept any more"))
        else:
            self.origin.send(msgspec.structs.replace(answer, id=self.request.id, recorded=not self.request.key))

    def refuse(self, error: ActorError) -> None:
        """Send the reason why the request will not run."""
        if self.request.mode is Mode.STREAM:
            self.activation.runtime.forget_stream(self)
        if self.activation.durable is not None:
            self.activation.durable.inbox.refused(self)
        if not self.said:
            self.origin.send(failure.refusal(self.request.id, error))
        for joiner in self.joiners or ():
            joiner.refuse(error)

    def tell(self, why: Callable[[Request], Failure]) -> None:
        """Send why it could not be run; one that was accepted before is not heard of any more."""
        if self.request.mode is Mode.STREAM:
            self.activation.runtime.forget_stream(self)
        if not self.said:
            self.origin.send(why(self.request))
        for joiner in self.joiners or ():
            joiner.tell(why)

    def answer(self, envelope: Envelope) -> None:
        """Send the final answer. A one-way message was answered when it was accepted, or is now."""
        if self.request.mode is Mode.STREAM:
            self.activation.runtime.forget_stream(self)
        if self.request.mode is Mode.SEND:
            self.accepted()
        elif not self.left:
            self.origin.send(envelope)
        for joiner in self.joiners or ():
            joiner.answer_again(envelope if isinstance(envelope, Reply | Failure) else None)
