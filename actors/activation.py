"""One actor in memory: its lanes, and its way from claim to release."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from actors import codec, failure
from actors.actor import Actor, ActorType
from actors.builtin import REMINDER, SUBSCRIBE, TIMER
from actors.context import current_turn
from actors.durable import Counter, Durable, Write
from actors.durable_state import DurableState
from actors.envelope import Envelope, Failure, Mode, Request
from actors.errors import (
    ActorError,
    CallCycle,
    ClusterUnavailable,
    ConnectionLost,
    MailboxFull,
    MessageParked,
    OutcomeUnknown,
    Timeout,
    UnknownHandler,
)
from actors.handler import HandlerSpec, Lane
from actors.mailbox import Mailbox
from actors.ports import Commit, Fenced, Opened, StoreUnavailable
from actors.records import Pending
from actors.reminders import Due
from actors.turn import LIFECYCLE, NOBODY, Lifecycle, Turn

if TYPE_CHECKING:
    from actors.ports import Link
    from actors.runtime import LocalCaller, Runtime
    from actors.timer import Timer

log = logging.getLogger("actors")

LAST_WORDS = 1.0  # seconds that readers of a deleted channel have to hear of it
AT_ONCE = 16  # turns started in one go: a long queue of short turns must not hold up the loop


class Status(Enum):
    """Where an activation is on its way."""

    ACTIVATING = "activating"  # claimed; state and on_activate are under way, messages queue
    ACTIVE = "active"
    CLOSING = "closing"  # on_deactivate, last commit and release are under way, messages queue
    CLOSED = "closed"


class Activation:
    """The only live copy of an actor, owned by epoch.

    Three lanes: turns, exclusive and in order of arrival; read-only calls and control calls, which run beside them.
    What a turn changed is committed before its answer leaves; a commit that fails ends the activation. What a control
    call changes while a turn runs belongs to that turn: it is committed or rolled back with it. A read-only call sees
    the state of the last commit. No turn starts while a
    commit is under way, so that there is one last commit to go back to.
    """

    __slots__ = (
        "_arrivals",
        "_arriving",
        "_beside",
        "_broken",
        "_carried",
        "_closing_for",
        "_committing",
        "_failing",
        "_failure",
        "_mailbox",
        "_ready",
        "_scheduled",
        "_state",
        "_timers",
        "_turn",
        "actor",
        "address",
        "durable",
        "epoch",
        "last_used",
        "runtime",
        "status",
        "type",
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
    ) -> None:
        self.runtime = runtime
        self.address = address
        self.type = actor_type
        self.epoch = epoch
        self.status = Status.ACTIVATING
        self.actor: Actor = actor_type.actor.__new__(actor_type.actor)
        self.last_used = runtime.loop.time()
        self._turn: Turn | None = None
        self._beside: dict[Turn, None] | None = None  # in order of arrival
        self._mailbox = Mailbox(actor_type.options.max_queue, runtime.settings.max_mailbox_bytes)
        self._arrivals: Mailbox | None = None  # messages of which it is not known yet whether they are new
        self._arriving = False
        self._carried = carried
        """What the former activation here had accepted, or had yet to run, in order."""
        self._state = DurableState(actor_type.state) if actor_type.state is not None else None
        self.durable = Durable(self, self._state, counter) if actor_type.options.persist == "turn" else None
        self._timers: dict[int, Timer] | None = None
        self._committing: asyncio.Future[None] | None = None
        self._closing_for: str | None = None
        self._failure: BaseException | None = None  # of activating
        self._ready: asyncio.Future[None] | None = None
        self._scheduled = False
        self._failing = False
        self._broken = False  # a commit was refused: nothing may be built on it
        if self.durable is None:
            for turn in carried:
                self._mailbox.put(turn.again(self), beyond_limit=True)
            self._carried = ()
        elif arrivals:
            self._arrivals = Mailbox(actor_type.options.max_queue, runtime.settings.max_mailbox_bytes)
            for turn in arrivals:
                self._arrivals.put(turn.again(self), beyond_limit=True)

    @property
    def gone(self) -> bool:
        """Whether nothing of this activation may take effect any more."""
        return self.status is Status.CLOSED

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits, or is on its way."""
        if self._turn is not None or self._beside or self._mailbox or self._arrivals:
            return True
        return self.durable is not None and self.durable.busy

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

    def accept(self, request: Request, origin: "Link | LocalCaller") -> None:
        """Take a request: run it, queue it, or refuse it."""
        spec = self.type.handlers.get(request.handler)
        if spec is None or (request.mode is not Mode.SEND and (request.mode is Mode.STREAM) is not spec.streams):
            origin.send(failure.refusal(request.id, self._unknown_handler(request, spec)))
            return
        if self._failure is not None:
            origin.send(self._failed_to_activate(request.id))
            return
        now = self.runtime.loop.time()
        self.last_used = now
        turn = Turn(self, request, origin, spec, now + request.timeout if request.timeout else float("inf"))
        if request.mode is Mode.STREAM:
            self.runtime.remember_stream(turn)
        durable = self.durable
        if durable is None:
            if request.attempt and spec.lane is not Lane.READ:
                turn.refuse(ConnectionLost(f"{turn.where}: the silo that had it was lost; it may have run there"))
            else:
                self._enter(turn)
        elif request.chain and (spec.lane is Lane.TURN or self._turn is None) and self._is_waiting_for(request):
            turn.refuse(self._cycle(request))
        elif not self._takes or self._arrivals or durable.inbox.must_look_up(request):
            self._let_arrive(turn)
        elif durable.inbox.enter(turn):
            self._enter(turn)

    @property
    def _takes(self) -> bool:
        """Whether it is known which messages have come before, and new ones can be made durable."""
        return self.status is Status.ACTIVE or (self.status is Status.CLOSING and not self._failing)

    def _let_arrive(self, turn: Turn) -> None:
        """Keep a message, and what comes after it, until it is known whether it is new."""
        if self._arrivals is None:
            self._arrivals = Mailbox(self.type.options.max_queue, self.runtime.settings.max_mailbox_bytes)
        try:
            self._arrivals.put(turn)
        except MailboxFull as error:
            turn.refuse(error)
            return
        if self._takes and not self._arriving:
            self._arriving = True
            self.runtime.spawn(self._take_arrivals())

    async def _take_arrivals(self) -> None:
        """Find out, in their order, which messages are new, and let those in."""
        assert self.durable is not None
        inbox = self.durable.inbox
        while self._arrivals and self._takes:
            turn = self._arrivals.first()
            keyed = None
            if inbox.must_look_up(turn.request):
                try:
                    keyed = await inbox.look_up(turn.request)
                except Exception as error:
                    self._arrivals.take()
                    turn.refuse(ClusterUnavailable(f"{turn.where}: not accepted: {error}"))
                    continue
                if not self._arrivals or self._arrivals.first() is not turn:
                    continue  # the activation has ended meanwhile
            if not self.runtime.may_act():
                self.runtime.stop_acting()
                return
            self._arrivals.take()
            if inbox.enter(turn, keyed):
                self._enter(turn)
        self._arriving = False
        if self._closing_for is not None:
            self._schedule_next()

    def _enter(self, turn: Turn) -> None:
        """Run a new message, queue it, or refuse it."""
        request, spec = turn.request, turn.spec
        free = self.status is Status.ACTIVE and self._closing_for is None
        if spec.lane is not Lane.TURN and (free or self._turn is not None):
            beside = len(self._beside or ())
            if beside >= self.type.options.max_queue and not spec.builtin:
                turn.refuse(MailboxFull(f"{self.address}: {beside} read-only and control calls run already"))
                return
            self._admit(turn)
            self._run_beside(turn)
        elif request.chain and self._is_waiting_for(request):
            turn.refuse(self._cycle(request))
        elif free and self._turn is None and self._committing is None and not self._mailbox and not turn.waits_for_row:
            if spec.suspends or spec.streams or self.durable is None:  # else its own commit is soon enough
                self._admit(turn)
            self._turn = turn
            turn.start()
        else:
            try:
                self._mailbox.put(turn)
            except MailboxFull as error:
                turn.refuse(error)
            else:
                self._admit(turn)

    def _admit(self, turn: Turn) -> None:
        """A one-way message is taken: durably, where that was promised."""
        if turn.request.mode is Mode.SEND and turn.origin is not NOBODY:
            if self.durable is not None:
                self.durable.admit(turn)
            else:
                turn.accepted()

    def remind(self, due: Due) -> bool:
        """A reminder is due: make it a message of its own. False if there is no room for it now."""
        assert self.durable is not None
        if self.status is not Status.ACTIVE or self._closing_for is not None or self._mailbox.is_full:
            return False
        request = Request(
            0, self.address, REMINDER, codec.encode([due.name]), Mode.SEND, 0.0, f"{due.row.id}@{due.row.due}",
            self.address, attempt=1,
        )  # fmt: skip
        turn = Turn(self, request, NOBODY, self.type.handlers[REMINDER], float("inf"))
        turn.reminder = due
        self.durable.inbox.add(turn)
        self._mailbox.put(turn)
        self.durable.admit(turn)
        return True

    def run_timer(self, number: int) -> None:
        """A timer has fired: queue its turn."""
        request = Request(
            0, self.address, TIMER, codec.encode([number]), Mode.SEND, 0.0, f"timer {number}", self.address
        )
        turn = Turn(self, request, NOBODY, self.type.handlers[TIMER], float("inf"))
        turn.said = True
        if self.status is Status.ACTIVE and self._closing_for is None and not self._mailbox.is_full:
            self._mailbox.put(turn)
            self._schedule_next()

    @property
    def timers(self) -> "dict[int, Timer]":
        """The timers of this activation."""
        if self._timers is None:
            self._timers = {}
        return self._timers

    def _unknown_handler(self, request: Request, spec: HandlerSpec | None) -> UnknownHandler:
        name = request.handler or "receive"
        if spec is None:
            known = ", ".join(sorted(self.type.actor.handler_names())) or "none but receive"
            kind = self.type.actor.__name__
            return UnknownHandler(f"{self.address}: {kind} has no handler {name!r} (known: {known})")
        if spec.streams:
            return UnknownHandler(f"{self.address}: {name!r} is an async generator: iterate ref.{name}.stream(...)")
        return UnknownHandler(f"{self.address}: {name!r} is no async generator: call `await ref.{name}(...)`")

    def _is_waiting_for(self, request: Request) -> bool:
        if self._turn is not None:
            return (self.address, self._turn.request.message_id) in request.chain
        return self.status is not Status.ACTIVE and (self.address, LIFECYCLE) in request.chain

    def _cycle(self, request: Request) -> CallCycle:
        path = [address for address, _ in request.chain]
        path = [*path[path.index(self.address) :], self.address]
        return CallCycle(
            f"call cycle {' -> '.join(path)}: {self.address} waits in its own turn for this call and could never run "
            "it. Use send(), or a @handler(readonly=True) or @handler(control=True)"
        )

    def _run_beside(self, turn: Turn) -> None:
        if self._beside is None:
            self._beside = {}
        self._beside[turn] = None
        turn.start()

    def _next(self) -> None:
        """Start what waits, oldest first, until something runs; close when nothing does and that was asked for."""
        self._scheduled = False
        if self.status is not Status.ACTIVE or self._committing is not None:
            return
        if self._closing_for is not None:
            if self._turn is None and not self._beside and not (self.durable is not None and self.durable.writes):
                self._close()
            return  # what waits is for the next activation
        for _ in range(AT_ONCE):
            if self._turn is not None or not self._mailbox or self._committing is not None:
                return
            if not self.runtime.may_act():
                self.runtime.stop_acting()
                return
            if self._mailbox.first().waits_for_row:
                return
            self._start(self._mailbox.take())
        self._schedule_next()

    def _start(self, turn: Turn) -> None:
        if turn.spec.lane is not Lane.TURN:
            self._run_beside(turn)
        elif turn.recovered:
            self._turn = turn
            self.runtime.spawn(self._adopt(turn))
        elif turn.expires > self.runtime.loop.time() or turn.request.mode is Mode.SEND:
            self._turn = turn
            turn.start()
        else:
            if turn.row and self.durable is not None:
                self.durable.withdraw(turn)
            turn.refuse(Timeout(f"{turn.where}: still queued when its deadline passed; it did not run"))

    async def _adopt(self, turn: Turn) -> None:
        """Start a message that a lost silo may have begun, and count that, unless it was done too often already."""
        assert self.durable is not None
        limit = self.runtime.settings.max_adoptions
        if turn.adoptions >= limit:
            await self.park(turn, f"its silo was lost {limit + 1} times while it ran")
        elif turn.park_for is not None:
            await self.park(turn, turn.park_for)
        elif await self.write(self.durable.adopt(turn)) and self.runs(turn):
            turn.start()

    async def park(self, turn: Turn, reason: str) -> None:
        """Take a message out of the way until an operator decides."""
        assert self.durable is not None
        log.error("%s: message %s is parked: %s", turn.where, turn.request.message_id, reason)
        self.roll_back(turn)
        if await self.write(self.durable.park(turn, reason)) and self.runs(turn):
            turn.said = turn.said or turn.request.mode is Mode.SEND
            self._over(turn)
            turn.refuse(MessageParked(f"{turn.where}: the message is parked: {reason}"))

    def _schedule_next(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.runtime.loop.call_soon(self._next)

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
        self._over(turn)
        if renew:
            self._start_anew()

    def _over(self, turn: Turn) -> None:
        self.last_used = self.runtime.loop.time()
        if turn is self._turn:
            self._turn = None
        elif self._beside is not None:
            self._beside.pop(turn, None)
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

    def actor_for(self, turn: Turn) -> Actor:
        """The actor as the turn may see it: a read-only call gets a copy with the state of the last commit."""
        if turn.spec.lane is not Lane.READ or self._state is None or self.type.options.persist != "turn":
            return self.actor
        view = object.__new__(type(self.actor))
        vars(view).update(vars(self.actor))
        view.state = self._state.committed(self.address)
        return view

    def unsaved(self, turn: Turn) -> bytes | None:
        """The state if it must be committed before the turn's answer leaves, else None. Raises SerializationFailed."""
        if self._state is None or self.type.options.persist != "turn" or not self.runs(turn):
            return None
        if turn.spec.lane is Lane.READ:
            return None
        if turn is not self._turn and (self._turn is not None or self._committing is not None):
            return None  # a call beside a running turn: what it changed belongs to that turn
        return self._state.unsaved(self.actor.state, self.address)

    def roll_back(self, turn: Turn) -> None:
        """Forget what a failed turn changed. Raises ``StateUnreadable``."""
        if self._state is not None and turn is self._turn and self.type.options.persist == "turn":
            self._state.roll_back(self.actor, self.address)

    async def commit(self, turn: Turn, answer: Envelope, state: bytes | None) -> bool:
        """Make durable what the turn did. Returns False if that failed, which ends the activation."""
        if self.gone or not self.runs(turn):
            return False
        assert self.durable is not None
        write = self.durable.settle(turn, answer, state)
        if write is None:
            return True
        if turn is not self._turn and state is None:
            return await self.write(write, turn)
        done = self._committing = self.runtime.loop.create_future()
        try:
            return await self.write(write, turn)
        finally:
            self._committing = None
            done.set_result(None)
            if self._mailbox:
                self._schedule_next()

    async def write(self, write: Write, turn: Turn | None = None) -> bool:
        """Hand a commit to the store. Returns False if it failed, which ends the activation."""
        if self.gone or self._broken:
            return False
        if not self.runtime.may_act():
            self.runtime.stop_acting()
            return False
        if self.durable is not None:
            self.durable.writes += 1
        try:
            await self.runtime.store.commit(write.commit)
        except asyncio.CancelledError:  # of who waits: the store goes on
            if not self.gone:
                self.runtime.spawn(self._follow_up(write))
            raise
        except Exception as error:
            self._broken = True
            self.fail_turn(turn, self._why_refused(error))
        else:
            if self.gone:
                return False
            for then in write.then:
                then()
            return True
        finally:
            if self.durable is not None:
                self.durable.write_ended()
                if self._closing_for is not None:
                    self._schedule_next()
        return False

    async def _follow_up(self, write: Write) -> None:
        """Learn whether a commit that nobody waits for was applied, and then let out what waited for it.

        An empty commit behind it tells: it is refused if that one was.
        """
        await self.write(Write(Commit(address=self.address, epoch=self.epoch), write.then))

    def _why_refused(self, error: Exception) -> ActorError:
        if isinstance(error, Fenced):
            log.warning("%s: another activation took over (%s)", self.address, error)
            return ConnectionLost(f"{self.address} moved while the turn ran; the turn committed nothing")
        if isinstance(error, StoreUnavailable):
            log.error("%s: a commit was refused: %s", self.address, error)
            return ClusterUnavailable(f"{self.address}: the state could not be stored, nothing took effect: {error}")
        log.error("%s: the store failed unexpectedly", self.address, exc_info=error)
        return OutcomeUnknown(f"{self.address}: the store failed unexpectedly: {error!r}")

    # -- activation -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Activate: at once if there is nothing to load and nothing to run first, else in the background."""
        if self._state is not None or self.durable is not None or self.type.has_on_activate:
            self.runtime.spawn(self.activate())
            return
        try:
            self._make_actor()
        except Exception as error:
            self._report_failure(error)
        else:
            self._begin()

    def _make_actor(self) -> None:
        self.actor._activation = self
        self.actor.__init__()  # type: ignore[misc]  # after address and state are there for it to use

    def _report_failure(self, error: BaseException) -> None:
        log.error("%s: activation failed: %s", self.address, failure.message(error), exc_info=error)
        self._fail_activation(error)

    def _begin(self) -> None:
        self.status = Status.ACTIVE
        self.runtime.watch_idleness(self)
        if self.durable is not None:
            self.durable.start()
            if self._arrivals:
                self._arriving = True
                self.runtime.spawn(self._take_arrivals())
        if self._closing_for is None:
            for turn in self._mailbox.take_beside():
                self._run_beside(turn)
        self._next()

    async def activate(self) -> None:
        """Load what is stored, run on_activate, then start what waits. A failure ends the activation."""
        current_turn.set(Lifecycle(self))
        try:
            if self._state is not None or self.durable is not None:
                await self._load()
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                self._make_actor()
                await self.actor.on_activate()
        except (StoreUnavailable, Fenced) as error:
            self._fail_activation(ClusterUnavailable(f"{self.address}: its state could not be loaded: {error}"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.gone:
                self._report_failure(error)
        else:
            if self.status is Status.ACTIVATING:
                self._begin()
        finally:
            if self._ready is not None:
                self._ready.set_result(None)
                self._ready = None

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                opened = await self._open() if self.type.stored else Opened()
        except TimeoutError:
            raise StoreUnavailable("the store did not answer in time") from None
        if self._state is not None:
            self.actor.state = self._state.restore(opened, self.address)
        if self.durable is not None:
            self._restore(self.durable.load(opened), self.durable)

    async def _open(self) -> Opened:
        store, directory = self.runtime.store, self.runtime.directory
        try:
            return await store.open(self.address, self.epoch, directory.silo)
        except Fenced as fenced:  # either the claim is stale, or the directory lost its past
            self.epoch = await directory.outrun(self.address, fenced.stored)
            return await store.open(self.address, self.epoch, directory.silo)

    def _restore(self, rows: Iterable[tuple[bytes, Pending]], durable: Durable) -> None:
        """Queue the messages that the store knows, then those that only the former activation here knew, in order."""
        carried = {turn.request.message_id: turn.again(self) for turn in self._carried}
        self._carried = ()
        known = []
        for number, row in rows:
            turn = carried.get(row.request.message_id) or self._recovered(row.request)
            turn.number, turn.row, turn.adoptions, turn.reminder = number, True, row.adoptions, None
            known.append(turn)
        for turn in [*(turn for turn in known if turn.recovered), *carried.values()]:
            if turn.row:
                durable.inbox.add(turn)
                self._mailbox.put(turn, beyond_limit=True)
                turn.accepted()
            elif turn.request.number:  # its sender tries again
                turn.refuse(ClusterUnavailable(f"{turn.where}: not accepted"))
            elif turn.answerable:
                durable.inbox.add(turn)
                self._mailbox.put(turn, beyond_limit=True)
                self._admit(turn)

    def _recovered(self, request: Request) -> Turn:
        """A message that a lost silo, or the silo before a drain, has left."""
        spec = self.type.handlers.get(request.handler)
        turn = Turn(self, request, NOBODY, spec or self.type.handlers[""], float("inf"))
        turn.recovered = turn.said = turn.left = True
        if spec is None:
            turn.park_for = f"there is no handler {request.handler!r} any more"
        return turn

    async def ready(self) -> Failure | None:
        """Wait until the activation is active, or return why it could not be."""
        if self.status is Status.ACTIVATING:
            if self._ready is None:
                self._ready = self.runtime.loop.create_future()
            await asyncio.shield(self._ready)
        return None if self._failure is None else self._failed_to_activate(0)

    def _failed_to_activate(self, request_id: int) -> Failure:
        assert self._failure is not None
        if isinstance(self._failure, ActorError):
            return failure.refusal(request_id, self._failure)
        return failure.raised(request_id, f"{self.address}: on_activate", self._failure)

    def _waiting_turns(self) -> list[Turn]:
        """Everything that waits, oldest first; it waits no longer."""
        waiting = [*self._carried, *self._mailbox.drain(), *(self._arrivals.drain() if self._arrivals else ())]
        self._carried = ()
        return waiting

    def _fail_activation(self, error: BaseException) -> None:
        """Everyone who waits gets the error; the next message after that finds a new activation."""
        if self.gone:
            return
        self._failure = error
        self.status = Status.CLOSING
        self._failing = True
        stored = False
        for turn in self._waiting_turns():
            stored |= turn.row or (turn.said and self.durable is not None)
            turn.tell(self._failed_to_activate(turn.request.id))
            if turn.said and self.durable is None:
                log.error("%s: an accepted message is lost, because the actor cannot be activated", turn.where)
        if stored:  # it is known to the store, and to be tried again
            self.runtime.revisit(self.address)
        self.runtime.spawn(self._leave())

    # -- deactivation -----------------------------------------------------------------------------------------------

    def request_deactivation(self, reason: str = "requested") -> None:
        """Deactivate as soon as nothing runs. What waits is for the next activation."""
        if self._closing_for is None and self.status in (Status.ACTIVE, Status.ACTIVATING):
            self._closing_for = reason
            if self.durable is not None:
                self.durable.end_readers()
            if self.status is Status.ACTIVE:
                self._next()

    def _close(self) -> None:
        self.status = Status.CLOSING
        self.runtime.spawn(self._deactivate(self._closing_for or "requested"))

    async def _deactivate(self, reason: str) -> None:
        current_turn.set(Lifecycle(self))
        try:
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                await self.actor.on_deactivate(reason)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.gone:
                log.error("%s: on_deactivate(%r) failed: %s", self.address, reason, failure.message(error))
        write = None
        if not self.gone and self.type.stored:
            try:
                state = self._state.unsaved(self.actor.state, self.address) if self._state is not None else None
            except ActorError as error:
                log.error("%s: what changed since the last commit is lost", error)
                state = None
            if self.durable is not None:
                write = self.durable.fall_asleep(state)
            elif state is not None and self._state is not None:
                put: dict[bytes, bytes] = {}
                drop: list[bytes] = []
                state = self._state.write(state, put, drop)
                write = Write(Commit(address=self.address, epoch=self.epoch, state=state, put=put, drop=drop), [])
        if write is None or await self.write(write):
            await self._leave()

    def _start_anew(self) -> None:
        """Activate again from what is stored now, once the readers of the channels know."""
        if self.status is Status.ACTIVE:
            self.status = Status.CLOSING
            self._failing = True
            self.runtime.spawn(self._end_and_renew())

    async def _end_and_renew(self) -> None:
        self.durable_side.end_readers()
        end = self.runtime.loop.time() + LAST_WORDS
        while any(turn.spec.name == SUBSCRIBE for turn in self._beside or ()) and self.runtime.loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for other in self._running():
            if other.task is not None:
                other.task.cancel()
            other.refuse(ConnectionLost(f"{self.address} was changed from outside while the call ran"))
        self._turn, self._beside = None, None
        await self._leave(renew=True)

    def fail_turn(self, turn: Turn | None, error: ActorError) -> None:
        """Nothing that happened since the last commit may be seen: end what runs, start anew for what waits."""
        if self.gone or self._failing:
            return
        self._failing = True
        self.status = Status.CLOSING
        running = self._running()
        self._turn, self._beside = None, None
        moved = isinstance(error, ConnectionLost)
        elsewhere: list[Turn] = []
        for other in running:
            if other.task is not None and other is not turn:
                other.task.cancel()
            if self.durable is None or other.request.mode is Mode.STREAM:
                other.refuse(error)
            elif moved:
                other.request.attempt += 1
                elsewhere.append(other)
            elif other.row:
                self._carried = [*self._carried, other]
            else:
                other.refuse(error)
        if moved:
            self.runtime.hand_on([*elsewhere, *self._waiting_turns()], bounce=True)
        self.runtime.spawn(self._leave(taken_over=moved))

    async def _leave(self, *, taken_over: bool = False, renew: bool = False) -> None:
        """Go. What came in meanwhile is for a new activation: here at once, in its order, if this silo may host one."""
        if self.gone:
            return
        runtime = self.runtime
        if self.durable is not None:
            await self.durable.written()
        renew = renew or bool(self._mailbox or self._arrivals or self._carried)
        if renew and not taken_over and not runtime.draining and runtime.may_act():
            self._renew()
            return
        self._failing = True  # what comes from now on waits for the next owner, in its order
        try:
            await runtime.directory.release(self.address, self.epoch)
        except Exception as error:  # the entry stays ours, and is claimed again or swept
            log.warning("%s: could not be released: %s", self.address, error)
        if not self.gone:
            self._end()
            runtime.remove(self)
            runtime.hand_on(self._waiting_turns())

    def _end(self) -> None:
        self.status = Status.CLOSED
        if self.durable is not None:
            self.durable.stop()
        for timer in list((self._timers or {}).values()):
            timer.cancel()

    def _renew(self) -> None:
        """Activate anew under the same claim."""
        self._end()
        counter = self.durable.counter if self.durable is not None else None
        arrivals = list(self._arrivals.drain()) if self._arrivals else []
        carried = self._waiting_turns()
        new = Activation(
            self.runtime, self.address, self.type, self.epoch, carried=carried, arrivals=arrivals, counter=counter
        )
        self.runtime.activations[self.address] = new
        new.start()

    def _running(self) -> list[Turn]:
        return [turn for turn in (self._turn, *(self._beside or ())) if turn is not None]

    async def give_back(self) -> None:
        """The silo goes in good order: what runs may start elsewhere without that counting as a loss."""
        turn = self._turn
        if turn is not None and turn.row and self.durable is not None:
            await self.write(self.durable.give_back(turn))

    def vanish(self) -> None:
        """Be gone as if the process had died: nothing is stored, and nobody is told."""
        running = self._running()
        self._end()
        self._turn, self._beside = None, None
        for turn in running:
            if turn.task is not None:
                turn.task.cancel()

    def drop(self, why: str) -> None:
        """The silo may act no more: forget everything at once, committing and releasing nothing."""
        running = self._running()
        self._end()
        self._turn, self._beside = None, None
        lost = ConnectionLost(f"{self.address}: {why} while the call was under way")
        elsewhere: list[Turn] = []
        for turn in running:
            if turn.task is not None:
                turn.task.cancel()
            if self.durable is None or turn.request.mode is Mode.STREAM:
                turn.refuse(lost)
            else:
                turn.request.attempt += 1  # it has begun
                elsewhere.append(turn)
        self.runtime.hand_on([*elsewhere, *self._waiting_turns()], bounce=True)
