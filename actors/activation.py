"""One actor in memory: its lanes, and its way from claim to release."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from actors import activating, arriving, busy, failure, leaving, rollback, waiting, watchdog, writing
from actors.actor import Actor
from actors.actor_type import ActorType
from actors.builtin import SUBSCRIBE
from actors.commits import Write
from actors.durable import Counter, Durable
from actors.durable_state import DurableState
from actors.envelope import Envelope, Failure, Mode, Request
from actors.errors import (
    ActorError,
    ClusterUnavailable,
    MailboxFull,
    MessageParked,
    NotRepeated,
    Rejected,
    Timeout,
)
from actors.execution import start
from actors.handler import HandlerSpec, Lane
from actors.mailbox import Mailbox
from actors.ports import Commit, StoreUnavailable
from actors.reminders import Due
from actors.shares import may_take, with_reserve
from actors.status import Status
from actors.timer import Timer
from actors.turn import NOBODY, Turn
from actors.view import View

if TYPE_CHECKING:
    from actors.guest import Guest, LocalCaller
    from actors.runtime import Runtime

log = logging.getLogger("actors")


class Activation:
    """The only live copy of an actor, owned by epoch.

    Three lanes: turns, exclusive and in order of arrival; read-only calls and control calls, which run beside them.
    What a turn changed is committed before its answer leaves; a commit that fails ends the activation. What a control
    call changes while a turn runs belongs to that turn: it is committed or rolled back with it. A read-only call sees
    the state of the last commit. No turn starts while a
    commit is under way, so that there is one last commit to go back to.
    """

    __slots__ = (
        "_arrivals", "_arriving", "_beside", "_broken", "_carried", "_closing_for", "_committing", "_failing",
        "_failure", "_luggage", "_mailbox", "_moves_to", "_ready", "_scheduled", "_state", "_timers", "_turn", "actor",
        "address", "durable", "epoch", "idle_slot", "last_used", "runtime", "setbacks", "status", "type",
    )  # fmt: skip

    def __init__(
        self,
        runtime: "Runtime",
        address: str,
        actor_type: ActorType,
        epoch: int,
        *,
        carried: Sequence[Turn] = (),
        arrivals: Sequence[Turn] = (),
        counter: Counter | None = None,
        setbacks: int = 0,
        luggage: bytes = b"",
    ) -> None:
        self.runtime = runtime
        self.address = address
        self.type = actor_type
        self.epoch = epoch
        self.status = Status.ACTIVATING
        self.actor: Actor = actor_type.actor.__new__(actor_type.actor)
        self.last_used = runtime.loop.time()
        self.idle_slot = 0.0
        self._turn: Turn | None = None
        self._beside: dict[Turn, None] | None = None  # in order of arrival
        self._mailbox = self.new_mailbox()
        self._arrivals: Mailbox | None = None  # messages of which it is not known yet whether they are new
        self._arriving = False
        self._carried = carried
        """What the former activation here had accepted, or had yet to run, in order."""
        self._state = DurableState(actor_type.state) if actor_type.state is not None else None
        self.durable = Durable(self, self._state, counter) if actor_type.options.persist == "turn" else None
        self._timers: dict[int, Timer] | None = None
        self._committing: asyncio.Future[None] | None = None
        self._closing_for: str | None = None
        self._moves_to: str | None = None
        """The silo to which it goes when it closes; "": to any; None: it goes to sleep."""
        self._luggage = luggage
        """What it brings from the silo where it was before."""
        self._failure: BaseException | None = None  # of activating
        self._ready: asyncio.Future[None] | None = None
        self._scheduled = False
        self._failing = False
        self.setbacks = setbacks
        """How often in a row a commit failed, over several activations."""
        self._broken = False  # a commit was refused: nothing may be built on it
        if self.durable is None:
            for turn in carried:
                self._mailbox.put(turn.again(self), beyond_limit=True)
            self._carried = ()
        elif arrivals:
            self._arrivals = self.new_mailbox()
            for turn in arrivals:
                self._arrivals.put(turn.again(self), beyond_limit=True)

    def new_mailbox(self) -> Mailbox:
        """An empty mailbox with the limits of the actor's class and of its silo."""
        settings = self.runtime.settings
        return Mailbox(self.type.options.max_queue, settings.max_mailbox_bytes, self.runtime.waiting)

    @property
    def gone(self) -> bool:
        """Whether nothing of this activation may take effect any more."""
        return self.status is Status.CLOSED

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits, or is on its way."""
        if self._turn is not None:
            if not waiting.may_sleep(self, self._turn):
                return True
        elif self._mailbox:
            return True
        if self._beside or self._arrivals:
            return True
        return self.durable is not None and self.durable.busy

    def rests_since(self, time: float) -> bool:
        """Whether it is active and has had nothing to do since that time of the loop."""
        return self.status is Status.ACTIVE and self._closing_for is None and self.last_used <= time and not self.busy

    @property
    def is_free(self) -> bool:
        """Whether a turn could begin at once: nothing runs, waits or is being committed."""
        if self.status is not Status.ACTIVE or self._turn is not None or self._committing is not None:
            return False
        return not (self._mailbox or self._arrivals or self._closing_for is not None or self._broken)

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._mailbox) + len(self._arrivals or ())

    @property
    def durable_side(self) -> Durable:
        """The durable side of an actor that has one. Raises ``RuntimeError``."""
        if self.durable is None:
            raise RuntimeError(f'{self.address}: this needs class {self.type.actor.__name__}(Actor, persist="turn")')
        return self.durable

    def check_durable(self) -> None:
        """Raise ``RuntimeError`` where nothing is durable before the actor goes to sleep."""
        _ = self.durable_side

    # -- messages ---------------------------------------------------------------------------------------------------

    def accept(self, request: Request, origin: "Guest | LocalCaller") -> None:
        """Take a request: run it, queue it, or refuse it."""
        spec = arriving.handler_of(self, request)
        if isinstance(spec, Failure):
            origin.send(spec)
            return
        if self._failure is not None:
            origin.send(self.failed_to_activate(request))
            return
        if (self._turn is not None or self._mailbox) and self._refuse_early(request, spec, origin):
            return
        now = self.runtime.loop.time()
        self.last_used = now
        turn = Turn(self, request, origin, spec, now + request.timeout if request.timeout else float("inf"))
        turn.came = now
        if request.mode is Mode.STREAM:
            self.runtime.remember_stream(turn)
        durable = self.durable
        if spec.name != request.handler:
            turn.park_for = f"there is no handler {request.handler!r} here"
        if durable is None:
            if request.attempt and spec.lane is not Lane.READ:
                turn.refuse(NotRepeated(f"{turn.where}: the silo that had it was lost; it may have run there"))
            else:
                self._enter(turn)
        elif (
            request.chain and (spec.lane is Lane.TURN or self._turn is None) and arriving.is_waiting_for(self, request)
        ):
            turn.refuse(arriving.cycle(self, request))
        elif not self._takes or self._arrivals or durable.inbox.must_look_up(request):
            arriving.let_arrive(self, turn)
        elif durable.inbox.enter(turn):
            self._enter(turn)

    def _refuse_early(self, request: Request, spec: HandlerSpec, origin: "Guest | LocalCaller") -> bool:
        """Refuse a message that is certainly new if there is no room for it, at little cost; whether that was so."""
        if spec.lane is not Lane.TURN or spec.builtin:
            return False
        if request.attempt or request.key or request.number or request.chain or self.status is not Status.ACTIVE:
            return False
        refusal = self._mailbox.refusal(request.caller, len(request.payload), self.address)
        if refusal is None:
            return False
        if self.durable is not None:
            self.durable.inbox.acknowledged(request.done)
        self.runtime.run_queue.refused()
        origin.send(failure.refusal(request.id, refusal))
        return True

    def _may_start(self, turn: Turn) -> bool:
        """Whether a turn that has just come may run now."""
        if self.status is not Status.ACTIVE or self._closing_for is not None or self._turn is not None:
            return False
        if self._committing is not None or self._mailbox or turn.waits_for_row:
            return False
        return self.last_used <= self.runtime.run_queue.until

    def _has_room_beside(self, caller: str) -> bool:
        running, limit = self._beside or (), self.type.options.max_queue
        if may_take(len(running), limit - len(running), limit):  # as most often, whoever they are of
            return True
        own = sum(turn.request.caller == caller for turn in running)
        if own == len(running):
            return own < limit
        limit = with_reserve(limit)
        return may_take(own, limit - len(running), limit)

    @property
    def _takes(self) -> bool:
        """Whether it is known which messages have come before, and new ones can be made durable."""
        return self.status is Status.ACTIVE or (self.status is Status.CLOSING and not self._failing)

    def _enter(self, turn: Turn) -> None:
        """Run a new message, queue it, or refuse it."""
        request, spec = turn.request, turn.spec
        if turn.park_for is not None:  # its handler is not known here
            if not self.runtime.directory.newer(self.type.name):
                refused = arriving.not_public(request) if request.outside else None
                turn.refuse(refused or arriving.unknown_handler(self, request, None))
                return
            self.request_deactivation("newer code")
        free = self.status is Status.ACTIVE and self._closing_for is None
        if spec.lane is not Lane.TURN and (free or self._turn is not None):
            if not (spec.builtin or self._has_room_beside(request.caller)):
                running = f"{len(self._beside or ())} read-only and control calls run already"
                turn.refuse(MailboxFull(f"{self.address}: {running}; call less or later, or raise max_queue"))
                return
            self._admit(turn)
            self._run_beside(turn)
        elif request.chain and arriving.is_waiting_for(self, request):
            turn.refuse(arriving.cycle(self, request))
        elif self._may_start(turn):
            if spec.suspends or spec.streams or self.durable is None:  # else its own commit is soon enough
                self._admit(turn)
            self._turn = turn
            start(turn)
        else:
            try:
                busy.check(self, turn)
                self._mailbox.put(turn)
            except Rejected as error:
                turn.refuse(error)
            else:
                self._admit(turn, durably=busy.meet(self, turn))
                if self._turn is None and self._committing is None and not turn.waits_for_row:
                    self._schedule_next()  # there was no time to start it at once

    def _admit(self, turn: Turn, *, durably: bool = False) -> None:
        """A message is taken: ``durably`` for what it has done already, or where that was promised."""
        mode = turn.request.mode
        if self.durable is None:
            turn.accepted()
        elif (mode is Mode.SEND and turn.origin is not NOBODY) or (mode is Mode.ASK and durably):
            self.durable.admission.admit(turn)
        elif durably:
            self.durable.commits.flush()

    def timers_left(self) -> "list[Timer]":
        """Those that will fire."""
        return list((self._timers or {}).values())

    def add_timer(
        self, callback: Callable[..., object], args: tuple[object, ...], *, after: float, every: float | None
    ) -> "Timer":
        """See ``Actor.timer``."""
        number = self.runtime.next_id()
        timer = self.timers[number] = Timer(self, number, callback, args, after=after, every=every)
        return timer

    @property
    def timers(self) -> "dict[int, Timer]":
        """The timers of this activation."""
        if self._timers is None:
            self._timers = {}
        return self._timers

    def _run_beside(self, turn: Turn) -> None:
        if turn.left and turn.spec.name == SUBSCRIBE:  # its reader left while it waited: it would read for ever
            self.durable_side.inbox.remove(turn)
            return
        if self._beside is None:
            self._beside = {}
        self._beside[turn] = None
        start(turn)

    def start_waiting(self) -> None:
        """Start the next turn, if one may start; close when nothing runs and that was asked for."""
        self._scheduled = False
        if self.status is not Status.ACTIVE or self._committing is not None:
            return
        if self._closing_for is not None:
            waiting.let_go(self, self._closing_for)
            if self._turn is None and not self._beside and not (self.durable is not None and self.durable.writes):
                self._close()
            return  # what waits is for the next activation
        if self._turn is not None or not self._mailbox:
            return
        if not self.runtime.may_act():
            self.runtime.stop_acting()
        elif not self._mailbox.first().waits_for_row:
            self._start(self._mailbox.take())
            self.look_for_work()  # unless it runs on, the next one may be started soon

    def _start(self, turn: Turn) -> None:
        if turn.spec.lane is not Lane.TURN:
            self._run_beside(turn)
        elif turn.recovered or turn.park_for is not None:
            self._turn = turn
            self.runtime.spawn(self._adopt(turn))
        elif turn.expires > self.runtime.loop.time() or turn.request.mode is Mode.SEND or self._has_begun(turn):
            self._turn = turn
            start(turn)
        else:
            late = Timeout(f"{turn.where}: still queued when its deadline passed; it did not run")
            if turn.row and self.durable is not None:
                self.durable.commits.withdraw(turn, late)
            turn.refuse(late)

    @property
    def current(self) -> Turn | None:
        """The turn that runs, or ran when the former owner was lost and does so again next."""
        if self._turn is None and self._mailbox and self._mailbox.first().recovered:
            return self._mailbox.first()
        return self._turn

    def came_again(self, message_id: str, attempt: int) -> bool:
        """Whether somebody has sent the message once more after its ``attempt``."""
        turn = next((turn for turn in self.unsettled() if turn.id == message_id), None)
        if turn is None:
            return False
        return turn.request.attempt > attempt or any(map(self.runtime.hears, turn.joiners or ()))

    def unsettled(self) -> Iterator[Turn]:
        """All messages that have come and are not over."""
        yield from self.running()
        yield from self._mailbox
        yield from self._arrivals or ()

    def mail(self) -> Iterator[Turn]:
        """The messages that wait to be run, oldest first."""
        return iter(self._mailbox)

    def interrupt(self, reason: str, message_id: str = "") -> Turn | None:
        """Stop what runs, or ran when the former owner was lost; with an id that message, also while it waits.

        Returns the turn that will hear of it, None if there is none.
        """
        turn = self.current
        if message_id and (turn is None or turn.request.message_id != message_id):
            turn = next((other for other in self._mailbox if other.request.message_id == message_id), None)
        return turn if turn is not None and self.stop(turn, reason) else None

    def stop(self, turn: Turn, reason: str, *, rollback: bool = False) -> bool:
        """Interrupt a turn, wherever it is. Returns whether it will hear of that."""
        if not turn.interrupt(reason, rollback=rollback):
            return False
        watchdog.expect_end(self, turn)
        return True

    def _has_begun(self, turn: Turn) -> bool:
        """Whether steps of it have run: then it is run to its end, whoever waits for it."""
        return self.durable is not None and self.durable.has_journal(turn)

    async def _adopt(self, turn: Turn) -> None:
        """Start a message that a lost silo may have begun, and count that, unless it was done too often already."""
        assert self.durable is not None
        limit = self.runtime.settings.max_adoptions
        if turn.park_for is not None:
            await self.park(turn, turn.park_for)
        elif turn.adoptions >= limit:
            await self.park(turn, f"its silo was lost {limit + 1} times while it ran")
        elif await self.write(self.durable.commits.adopt(turn)) and self.runs(turn):
            start(turn)

    async def park(self, turn: Turn, reason: str) -> None:
        """Take a message out of the way until an operator decides."""
        assert self.durable is not None
        log.error("%s: message %s is parked: %s", turn.where, turn.request.message_id, reason)
        self.roll_back(turn)
        if await self.write(self.durable.commits.park(turn, reason)) and self.runs(turn):
            turn.said = turn.said or turn.request.mode is Mode.SEND
            self._over(turn)
            turn.refuse(MessageParked(f"{turn.where}: the message is parked: {reason}"))

    def _schedule_next(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.runtime.run_queue.add(self)

    def look_for_work(self) -> None:
        """Something that waits may be startable now."""
        if self._mailbox:
            self._schedule_next()

    def settle(self, turn: Turn, answer: Envelope) -> None:
        """A turn is over, with what it had to commit durable: let its answer go and start the next."""
        if not self.runs(turn):
            return  # it was cancelled, and its caller told so
        if not self.runtime.may_act():
            self.runtime.stop_acting()
            return
        if self.durable is not None:
            self.durable.inbox.remove(turn)
        if turn.asked is not None:
            self.runtime.acknowledge(turn.asked)
        renew = turn.effects is not None and turn.effects.renew
        turn.answer(answer)
        for steered, reply in turn.steered_by(answer):
            self._mailbox.discard(steered)
            steered.answer(reply)
        self._over(turn)
        if renew:
            self._start_anew()

    def rests(self) -> None:
        """The running turn waits for a signal, perhaps for long."""
        self.last_used = self.runtime.loop.time()
        if self._closing_for is not None:
            self._schedule_next()

    def forget(self, turn: Turn, *, again: bool) -> None:
        """The running turn is run by another activation, ``again`` in this silo if it may."""
        self._turn = None
        if again:
            self._carried = [*self._carried, turn]

    def drain_mail(self) -> None:
        """Nobody needs what waits to be run by this activation."""
        for _ in self._mailbox.drain():
            pass

    def _over(self, turn: Turn) -> None:
        self.last_used = self.runtime.loop.time()
        if turn is self._turn:
            self._turn = None
        elif self._beside is not None:
            self._beside.pop(turn, None)
        if self._turn is not None and turn.changes_apart:
            self._turn.pinned = self._state is not None  # what it may have changed belongs to the running turn
        turn.let_go()
        if self._mailbox or self._closing_for is not None:
            self._schedule_next()

    def runs(self, turn: Turn) -> bool:
        """Whether the turn runs here and may still have effects."""
        return turn is self._turn or (self._beside is not None and turn in self._beside)

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def committing(self) -> "asyncio.Future[None] | None":
        """Done when the commit that is under way has ended, well or badly; None if none is."""
        return self._committing

    def view(self) -> View | None:
        """What a read-only call sees: a copy; None where nothing is committed that it could show: the actor itself."""
        if self._state is None or self.type.options.persist != "turn":
            return None
        return View(self.actor, self._state, self.address)

    def unsaved(self, turn: Turn) -> bytes | None:
        """The state if it must be committed before the turn's answer leaves, else None. Raises SerializationFailed."""
        if self._state is None or self.type.options.persist != "turn" or not self.runs(turn):
            return None
        if turn.spec.lane is Lane.READ or turn.spec.name == SUBSCRIBE:
            return None
        if turn is not self._turn and (self._turn is not None or self._committing is not None):
            return None  # a call beside a running turn: what it changed belongs to that turn
        return self.unsaved_state()

    def unsaved_state(self) -> bytes | None:
        """The state, if it is not the one of the last commit. Raises ``SerializationFailed``."""
        return self._state.unsaved(self.actor.state, self.address) if self._state is not None else None

    def roll_back(self, turn: Turn) -> None:
        """Forget what a failed turn changed, or a failed control call with no turn running.

        Calls beside that one lose what they had changed, and are told so. Raises ``StateUnreadable``.
        """
        if self._state is None or self.type.options.persist != "turn":
            return
        if turn is self._turn:
            self._state.roll_back(self.actor, self.address)
            return
        apart = turn.changes_apart and self._turn is None and self.runs(turn)
        if apart and self._state.roll_back(self.actor, self.address):
            for other in self._beside or ():
                if other is not turn and other.changes_apart and other.began:
                    other.undone_by = turn.where

    def roll_back_state(self) -> None:
        """Go back to the state of the last commit. Raises ``StateUnreadable``."""
        if self._state is not None:
            self._state.roll_back(self.actor, self.address)

    async def commit(self, turn: Turn, answer: Envelope, state: bytes | None) -> bool:
        """Make durable what the turn did. Returns False if that failed, which ends the activation."""
        if self.gone or not self.runs(turn):
            return False
        assert self.durable is not None
        if turn.rolls_back and turn is self._turn:
            return await self._commit_nothing(turn, answer)
        write = self.durable.commits.settle(turn, answer, state)
        if write is None:
            return True
        if turn is not self._turn and state is None:
            return await self.write(write, turn)
        with self._commit_under_way():
            return await self._write_last(write, turn)

    async def _commit_nothing(self, turn: Turn, answer: Envelope) -> bool:
        """End a turn of which nothing is to stay, and let the readers of its channels know."""
        assert self.durable is not None
        with self._commit_under_way():  # so that nothing is published while it is looked at what was
            try:
                turn.effects = await rollback.unpublish(self, turn)
            except Exception as error:
                await self.read_failed(turn, ClusterUnavailable(f"{turn.where}: it cannot be rolled back now: {error}"))
                return False
            if turn.effects is None or self.gone or not self.runs(turn):
                return False
            write = self.durable.commits.settle(turn, answer, None)
            return write is None or await self._write_last(write, turn)

    async def _write_last(self, write: Write, turn: Turn) -> bool:
        written = await self.write(write, turn)
        if written:
            self.setbacks = 0
        return written

    @contextmanager
    def _commit_under_way(self) -> Iterator[None]:
        self.hold_turns()
        try:
            yield
        finally:
            self.let_turns_go()

    def hold_turns(self) -> None:
        """A commit is under way: no turn begins until ``let_turns_go``."""
        self._committing = self.runtime.loop.create_future()

    def let_turns_go(self) -> None:
        """The commit has ended, well or badly."""
        done, self._committing = self._committing, None
        if done is not None:
            done.set_result(None)
        if self._mailbox:
            self._schedule_next()

    async def write(self, write: Write, turn: Turn | None = None) -> bool:
        """Hand a commit to the store. Returns False if it failed, which ends the activation."""
        return await writing.write(self, write, turn)

    async def erase(self) -> None:
        """Remove what is stored of an actor that is stored when it goes to sleep."""
        await self.write(Write(Commit(address=self.address, epoch=self.epoch, erase=True), []))

    # -- beginning and end ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Activate: at once if there is nothing to load and nothing to run first, else in the background."""
        activating.start(self)

    def remind(self, due: Due) -> bool:
        """A reminder is due: make it a message of its own. False if there is no room for it now."""
        return arriving.remind(self, due)

    def run_timer(self, number: int) -> None:
        """A timer has fired: queue its turn."""
        arriving.run_timer(self, number)

    def fail_turn(self, turn: Turn | None, error: ActorError) -> None:
        """Nothing that happened since the last commit may be seen: end what runs, start anew for what waits."""
        leaving.fail(self, turn, error)

    async def read_failed(self, turn: Turn, error: ActorError | StoreUnavailable) -> None:
        """What a turn needed could not be read: end this activation, and start anew for what waits.

        First what is being committed is heard of: it may be durable, and its sender must not be told that it is not.
        """
        self._broken = True
        await self.durable_side.written()
        self.fail_turn(turn, error if isinstance(error, ActorError) else writing.why_refused(self, error))

    def vanish(self) -> None:
        """Be gone as if the process had died: nothing is stored, and nobody is told."""
        leaving.vanish(self)

    def drop(self, why: str) -> None:
        """The silo may act no more: forget everything at once, committing and releasing nothing."""
        leaving.drop(self, why)

    async def ready(self) -> Failure | None:
        """Wait until the activation is active, or return why it could not be."""
        if self.status is Status.ACTIVATING:
            if self._ready is None:
                self._ready = self.runtime.loop.create_future()
            await asyncio.shield(self._ready)
        return None if self._failure is None else self._why_not_active(0)

    def _why_not_active(self, request_id: int) -> Failure:
        assert self._failure is not None
        if isinstance(self._failure, ActorError):
            return failure.refusal(request_id, self._failure)
        return failure.raised(request_id, f"{self.address}: on_activate", self._failure)

    def failed_to_activate(self, request: Request) -> Failure:
        """What the sender of a request is told for which there is no activation."""
        failed = self._why_not_active(request.id)
        repeated = request.attempt and not request.number  # what has a number is told apart for ever
        return failure.of_one_attempt(failed) if repeated else failed

    def _waiting_turns(self) -> list[Turn]:
        """Everything that waits, oldest first; it waits no longer."""
        waiting = [*self._carried, *self._mailbox.drain(), *(self._arrivals.drain() if self._arrivals else ())]
        self._carried = ()
        return waiting

    # -- deactivation -----------------------------------------------------------------------------------------------

    def migrate(self, to: str | None) -> None:
        """Go on elsewhere when nothing runs. See ``Actor.migrate``."""
        try:
            self.request_deactivation("migration", to=self.runtime.migration.target(self.address, to))
        except ClusterUnavailable as error:
            log.info("%s: it stays where it is: %s", self.address, error)

    def request_deactivation(self, reason: str = "requested", *, to: str | None = None) -> None:
        """Deactivate as soon as nothing runs. What waits is for the next activation.

        ``to``: move there then; "": to a silo that placement chooses.
        """
        if self._closing_for is None and self.status in (Status.ACTIVE, Status.ACTIVATING):
            self._closing_for, self._moves_to = reason, to
            if self.durable is not None:
                self.durable.end_readers()
            if self.status is Status.ACTIVE:
                self.start_waiting()

    def cut_off(self) -> None:
        """End what runs, whatever it does, so that the rest of the actor can go on elsewhere."""
        leaving.cut_off(self)

    def _close(self) -> None:
        self.status = Status.CLOSING
        self.runtime.spawn(leaving.deactivate(self, self._closing_for or "requested"))

    def _start_anew(self) -> None:
        """Activate again from what is stored now, once the readers of the channels know."""
        if self.status is Status.ACTIVE:
            self.status = Status.CLOSING
            self._failing = True
            self.runtime.spawn(leaving.end_and_renew(self))

    def running(self) -> list[Turn]:
        """What runs now, in all lanes."""
        return [turn for turn in (self._turn, *(self._beside or ())) if turn is not None]

    async def give_back(self) -> None:
        """The silo goes in good order: what runs may start elsewhere without that counting as a loss."""
        turn = self._turn
        if turn is None or turn.ended:  # its last commit is under way, and nothing of it may be stored behind that
            return
        if self.durable is not None and self.durable.inbox.holds(turn) and (turn.row or turn.answerable):
            await self.write(self.durable.commits.give_back(turn))
