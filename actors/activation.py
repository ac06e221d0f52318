"""One actor in memory: its lanes, and its way from claim to release."""

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING

from actors import failure
from actors.actor import Actor, ActorType, current_turn
from actors.durable_state import DurableState
from actors.envelope import Envelope, Failure, Mode, Request
from actors.errors import (
    ActorError,
    CallCycle,
    ClusterUnavailable,
    ConnectionLost,
    MailboxFull,
    OutcomeUnknown,
    Timeout,
    UnknownHandler,
)
from actors.handler import HandlerSpec, Lane
from actors.mailbox import Mailbox
from actors.ports import Commit, Fenced, StoreUnavailable
from actors.turn import LIFECYCLE, Lifecycle, Turn

if TYPE_CHECKING:
    from actors.ports import Link
    from actors.runtime import LocalCaller, Runtime

log = logging.getLogger("actors")

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
        "_beside", "_closing_for", "_committing", "_durable", "_failure", "_mailbox", "_ready", "_scheduled", "_turn",
        "actor", "address", "epoch", "last_used", "runtime", "status", "type",
    )  # fmt: skip

    def __init__(
        self, runtime: "Runtime", address: str, actor_type: ActorType, epoch: int, mailbox: Mailbox | None = None
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
        self._mailbox = mailbox or Mailbox(actor_type.options.max_queue, runtime.settings.max_mailbox_bytes)
        self._durable = DurableState(actor_type.state) if actor_type.state is not None else None
        self._committing: asyncio.Future[None] | None = None
        self._closing_for: str | None = None
        self._failure: BaseException | None = None  # of activating
        self._ready: asyncio.Future[None] | None = None
        self._scheduled = False

    @property
    def gone(self) -> bool:
        """Whether nothing of this activation may take effect any more."""
        return self.status is Status.CLOSED

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return self._turn is not None or bool(self._beside) or len(self._mailbox) > 0

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._mailbox)

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
        free = self.status is Status.ACTIVE and self._closing_for is None
        if spec.lane is not Lane.TURN and (free or self._turn is not None):
            if self._beside is not None and len(self._beside) >= self.type.options.max_queue:
                turn.refuse(MailboxFull(f"{self.address}: {len(self._beside)} read-only and control calls run already"))
                return
            turn.accepted()
            self._run_beside(turn)
        elif request.chain and self._is_waiting_for(request):
            turn.refuse(self._cycle(request))
        elif free and self._turn is None and self._committing is None and not self._mailbox:
            turn.accepted()
            self._turn = turn
            turn.start()
        else:
            try:
                self._mailbox.put(turn)
            except MailboxFull as error:
                turn.refuse(error)
            else:
                turn.accepted()

    def _unknown_handler(self, request: Request, spec: HandlerSpec | None) -> UnknownHandler:
        name = request.handler or "receive"
        if spec is None:
            known = ", ".join(sorted(filter(None, self.type.handlers))) or "none but receive"
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
            if self._turn is None and not self._beside:
                self._close()
            return  # what waits is for the next activation
        for _ in range(AT_ONCE):
            if self._turn is not None or not self._mailbox or self._committing is not None:
                return
            if not self.runtime.may_act():
                self.runtime.stop_acting()
                return
            turn = self._mailbox.take()
            if turn.spec.lane is not Lane.TURN:
                self._run_beside(turn)
            elif turn.expires > self.runtime.loop.time() or turn.request.mode is Mode.SEND:
                self._turn = turn
                turn.start()
            else:
                turn.refuse(Timeout(f"{turn.where}: still queued when its deadline passed; it did not run"))
        self._schedule_next()

    def _schedule_next(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.runtime.loop.call_soon(self._next)

    def settle(self, turn: Turn, answer: Envelope) -> None:
        """A turn is over, with what it had to commit durable: let its answer go and start the next."""
        if not self.runs(turn):
            return  # it was cancelled, and its caller told so
        if not self.runtime.may_act():
            self.runtime.stop_acting()
            return
        turn.answer(answer)
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
        if turn.spec.lane is not Lane.READ or self._durable is None or self.type.options.persist != "turn":
            return self.actor
        view = object.__new__(type(self.actor))
        vars(view).update(vars(self.actor))
        view.state = self._durable.committed(self.address)
        return view

    def unsaved(self, turn: Turn) -> bytes | None:
        """The state if it must be committed before the turn's answer leaves, else None. Raises SerializationFailed."""
        if self._durable is None or self.type.options.persist != "turn" or not self.runs(turn):
            return None
        if turn.spec.lane is Lane.READ:
            return None
        if turn is not self._turn and (self._turn is not None or self._committing is not None):
            return None  # a call beside a running turn: what it changed belongs to that turn
        return self._durable.unsaved(self.actor.state, self.address)

    def roll_back(self, turn: Turn) -> None:
        """Forget what a failed turn changed. Raises ``StateUnreadable``."""
        if self._durable is not None and turn is self._turn and self.type.options.persist == "turn":
            self._durable.roll_back(self.actor, self.address)

    async def commit(self, turn: Turn | None, state: bytes) -> bool:
        """Make the state durable. Returns False if that failed, which ends the activation."""
        if self.gone or (turn is not None and not self.runs(turn)):
            return False
        if not self.runtime.may_act():
            self.runtime.stop_acting()
            return False
        assert self._durable is not None
        done = self._committing = self.runtime.loop.create_future()
        error: ActorError
        try:
            await self._durable.commit(Commit(self.address, self.epoch, state), self.runtime.store)
        except Fenced as fenced:
            log.warning("%s: another activation took over (%s)", self.address, fenced)
            error = ConnectionLost(f"{self.address} moved while the turn ran; the turn committed nothing")
        except StoreUnavailable as unavailable:
            log.error("%s: the state could not be stored: %s", self.address, unavailable)
            text = f"{self.address}: the state could not be stored, nothing took effect: {unavailable}"
            error = ClusterUnavailable(text)
        except Exception as unexpected:
            log.exception("%s: the store failed unexpectedly", self.address)
            error = OutcomeUnknown(f"{self.address}: the store failed unexpectedly: {unexpected!r}")
        else:
            return not self.gone
        finally:
            self._committing = None
            done.set_result(None)
            if self._mailbox:
                self._schedule_next()
        self.fail_turn(turn, error)
        return False

    # -- activation -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Activate: at once if there is nothing to load and nothing to run first, else in the background."""
        if self._durable is not None or self.type.has_on_activate:
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
        if self._closing_for is None:
            for turn in self._mailbox.take_beside():
                self._run_beside(turn)
        self._next()

    async def activate(self) -> None:
        """Load the state, run on_activate, then start what waits. A failure ends the activation."""
        current_turn.set(Lifecycle(self.address))
        try:
            if self._durable is not None:
                await self._load_state(self._durable)
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
            if not self.gone:
                self._begin()
        finally:
            if self._ready is not None:
                self._ready.set_result(None)
                self._ready = None

    async def _load_state(self, durable: DurableState) -> None:
        store, directory = self.runtime.store, self.runtime.directory
        try:
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                self.actor.state, self.epoch = await durable.load(
                    self.address, self.epoch, self.type, store=store, directory=directory
                )
        except TimeoutError:
            raise StoreUnavailable("the store did not answer in time") from None

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

    def _fail_activation(self, error: BaseException) -> None:
        """Everyone who waits gets the error; the next message after that finds a new activation."""
        if self.gone:
            return
        self._failure = error
        self.status = Status.CLOSING
        for turn in self._mailbox.drain():
            turn.answer(self._failed_to_activate(turn.request.id))
            if turn.request.mode is Mode.SEND:
                log.error("%s: an accepted message is lost, because the actor cannot be activated", turn.where)
        self.runtime.spawn(self._leave())

    # -- deactivation -----------------------------------------------------------------------------------------------

    def request_deactivation(self, reason: str = "requested") -> None:
        """Deactivate as soon as nothing runs. What waits is for the next activation."""
        if self._closing_for is None and self.status in (Status.ACTIVE, Status.ACTIVATING):
            self._closing_for = reason
            if self.status is Status.ACTIVE:
                self._next()

    def _close(self) -> None:
        self.status = Status.CLOSING
        self.runtime.spawn(self._deactivate(self._closing_for or "requested"))

    async def _deactivate(self, reason: str) -> None:
        current_turn.set(Lifecycle(self.address))
        try:
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                await self.actor.on_deactivate(reason)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.gone:
                log.error("%s: on_deactivate(%r) failed: %s", self.address, reason, failure.message(error))
        if self._durable is not None and self.type.stored and not self.gone:
            try:
                state = self._durable.unsaved(self.actor.state, self.address)
            except ActorError as error:
                log.error("%s: what changed since the last commit is lost", error)
            else:
                if state is not None and not await self.commit(None, state):
                    return
        await self._leave()

    def fail_turn(self, turn: Turn | None, error: ActorError) -> None:
        """Nothing that happened since the last commit may be seen: end what runs, start anew for what waits."""
        if self.gone:
            return
        self.status = Status.CLOSING
        running = self._running()
        self._turn, self._beside = None, None
        for other in running:
            if other.task is not None and other is not turn:
                other.task.cancel()
            other.answer(failure.refusal(other.request.id, error))
        self.runtime.spawn(self._leave(taken_over=isinstance(error, ConnectionLost)))

    async def _leave(self, *, taken_over: bool = False) -> None:
        """Go. What came in meanwhile is for a new activation: here at once, in its order, if this silo may host one."""
        if self.gone:
            return
        runtime = self.runtime
        if self._mailbox and not taken_over and not runtime.draining and runtime.may_act():
            self._renew()
            return
        try:
            await runtime.directory.release(self.address, self.epoch)
        except Exception as error:  # the entry stays ours, and is claimed again or swept
            log.warning("%s: could not be released: %s", self.address, error)
        if not self.gone:
            self.status = Status.CLOSED
            runtime.remove(self)
            runtime.hand_on(self._mailbox.drain())

    def _renew(self) -> None:
        """Activate anew under the same claim."""
        self.status = Status.CLOSED
        new = Activation(self.runtime, self.address, self.type, self.epoch, self._mailbox)
        for turn in self._mailbox:
            turn.activation = new
        self.runtime.activations[self.address] = new
        new.start()

    def _running(self) -> list[Turn]:
        return [turn for turn in (self._turn, *(self._beside or ())) if turn is not None]

    def drop(self, why: str) -> None:
        """The silo may act no more: forget everything at once, committing and releasing nothing."""
        running = self._running()
        self.status = Status.CLOSED
        self._turn, self._beside = None, None
        lost = ConnectionLost(f"{self.address}: {why} while the call was under way")
        for turn in running:
            if turn.task is not None:
                turn.task.cancel()
            turn.answer(failure.refusal(turn.request.id, lost))
        self.runtime.hand_on(self._mailbox.drain(), bounce=True)
