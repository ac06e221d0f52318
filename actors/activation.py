"""One actor in memory: its state, its lanes, and its way from claim to release."""

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING

from actors import failure
from actors.actor import Actor, ActorType, current_turn
from actors.envelope import Envelope, Failure, Mode, Request
from actors.errors import (
    ActorError,
    CallCycle,
    ClusterUnavailable,
    ConnectionLost,
    MailboxFull,
    SerializationFailed,
    Timeout,
    UnknownHandler,
)
from actors.handler import HandlerSpec, Lane
from actors.mailbox import Mailbox
from actors.ports import Commit, Fenced, StoreUnavailable
from actors.state import StateCodec
from actors.turn import LIFECYCLE, Lifecycle, Turn

if TYPE_CHECKING:
    from actors.ports import Link
    from actors.runtime import LocalCaller, Runtime

log = logging.getLogger("actors")


class Status(Enum):
    """Where an activation is on its way."""

    ACTIVATING = "activating"  # claimed; state and on_activate are under way, messages queue
    ACTIVE = "active"
    CLOSING = "closing"  # on_deactivate, last commit and release are under way, messages queue
    CLOSED = "closed"


class Activation:
    """The only live copy of an actor, owned by epoch.

    Three lanes: turns, exclusive and in order of arrival; read-only calls and control calls, which run beside them.
    What a turn changed is committed before its answer leaves; a commit that fails ends the activation.
    """

    __slots__ = (
        "_beside", "_closing_for", "_failure", "_mailbox", "_ready", "_scheduled", "_stored", "_turn", "actor",
        "address", "epoch", "last_used", "runtime", "status", "type",
    )  # fmt: skip

    def __init__(self, runtime: "Runtime", address: str, actor_type: ActorType, epoch: int) -> None:
        self.runtime = runtime
        self.address = address
        self.type = actor_type
        self.epoch = epoch
        self.status = Status.ACTIVATING
        self.actor: Actor = actor_type.actor.__new__(actor_type.actor)
        self.last_used = runtime.loop.time()
        self._turn: Turn | None = None
        self._beside: set[Turn] | None = None
        self._mailbox = Mailbox(actor_type.options.max_queue, runtime.settings.max_mailbox_bytes)
        self._stored = b""  # the state as the store has it; what a failed turn goes back to
        self._closing_for: str | None = None
        self._failure: BaseException | None = None
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
        if spec.lane is not Lane.TURN and self.status is Status.ACTIVE:
            self._run_beside(turn)
        elif request.chain and self._is_waiting_for(request):
            turn.refuse(self._cycle(request))
        elif self._turn is None and self.status is Status.ACTIVE and not self._mailbox:
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
            return UnknownHandler(
                f"{self.address}: {self.type.actor.__name__} has no handler {name!r} (known: {known})"
            )
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
        turn.accepted()
        if self._beside is None:
            self._beside = set()
        self._beside.add(turn)
        turn.start()

    def _next(self) -> None:
        """Start what waits, oldest first, until something runs."""
        self._scheduled = False
        for _ in range(16):  # a long queue of short turns must not hold up the loop
            if self._turn is not None or self.status is not Status.ACTIVE or not self._mailbox:
                break
            if self._closing_for is not None:
                break  # what waits is handed on
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
        else:
            self._schedule_next()
        if self._closing_for is not None and self._turn is None and not self._beside:
            self._close()

    def settle(self, turn: Turn, answer: Envelope) -> None:
        """A turn is over, with what it had to commit durable: let its answer go and start the next."""
        if not self._runs(turn):
            return  # it was cancelled, and its caller told so
        if not self.runtime.may_act():
            self.runtime.stop_acting()
            return
        turn.answer(answer)
        self.last_used = self.runtime.loop.time()
        if turn is self._turn:
            self._turn = None
        elif self._beside is not None:
            self._beside.discard(turn)
        if self._mailbox or self._closing_for is not None:
            self._schedule_next()

    def _schedule_next(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.runtime.loop.call_soon(self._next)

    # -- state ------------------------------------------------------------------------------------------------------

    def unsaved(self, turn: Turn) -> bytes | None:
        """The state if it must be committed before the turn's answer leaves, else None."""
        if self.type.state is None or self.type.options.persist != "turn":
            return None
        if turn is not self._turn and self._turn is not None:
            return None  # a call beside a running turn: what it changed is committed with that turn
        state = self.type.state.encode(self.actor.state, self.address)
        return None if state == self._stored else state

    def roll_back(self, turn: Turn) -> None:
        """Forget what a failed turn changed."""
        if turn is not self._turn or self.type.state is None or self.type.options.persist != "turn" or self.gone:
            return
        try:
            unchanged = self.type.state.encode(self.actor.state, self.address) == self._stored
        except SerializationFailed:
            unchanged = False
        if not unchanged:
            self.actor.state = self.type.state.decode(self._stored, self.address)

    async def commit(self, turn: Turn | None, state: bytes) -> bool:
        """Make the state durable. Returns False if that failed, which ends the activation."""
        if self.gone:
            return False
        if not self.runtime.may_act():
            self.runtime.stop_acting()
            return False
        error: ActorError
        try:
            await self.runtime.store.commit(Commit(self.address, self.epoch, state))
        except Fenced as fenced:
            log.warning("%s: another activation took over (%s)", self.address, fenced)
            error = ConnectionLost(f"{self.address} moved while the turn ran; the turn committed nothing")
        except StoreUnavailable as unavailable:
            log.error("%s: the state could not be stored: %s", self.address, unavailable)
            error = ClusterUnavailable(
                f"{self.address}: the state could not be stored, nothing took effect: {unavailable}"
            )
        else:
            self._stored = state
            return not self.gone
        self.fail_turn(turn, error)
        return False

    # -- life -------------------------------------------------------------------------------------------------------

    async def activate(self) -> None:
        """Load the state, run on_activate, then start what waits. A failure ends the activation."""
        try:
            current_turn.set(Lifecycle(self.address))
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                if self.type.state is not None:
                    self.actor.state = await self._load_state(self.type.state)
                self.actor._activation = self
                self.actor.__init__()  # type: ignore[misc]  # after address and state are there for it to use
                await self.actor.on_activate()
        except ActorError as error:
            self._fail_activation(error)
        except (StoreUnavailable, Fenced) as error:
            self._fail_activation(ClusterUnavailable(f"{self.address}: its state could not be loaded: {error}"))
        except BaseException as error:
            if not self.gone:
                log.error("%s: activation failed", self.address, exc_info=error)
                self._fail_activation(error)
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            if not self.gone:
                self.status = Status.ACTIVE
                self.runtime.watch_idleness(self)
                self._next()
        finally:
            if self._ready is not None:
                self._ready.set_result(None)
                self._ready = None

    async def ready(self) -> Failure | None:
        """Wait until the activation is active, or return why it could not be."""
        if self.status is Status.ACTIVATING:
            if self._ready is None:
                self._ready = self.runtime.loop.create_future()
            await asyncio.shield(self._ready)
        return None if self._failure is None else self._failed_to_activate(0)

    def _failed_to_activate(self, request_id: int) -> Failure:
        if isinstance(self._failure, ActorError):
            return failure.refusal(request_id, self._failure)
        assert self._failure is not None
        return failure.raised(request_id, f"{self.address}: on_activate", self._failure)

    async def _load_state(self, state: StateCodec) -> object:
        self._stored = state.fresh
        if not self.type.stored:
            return state.new()
        try:
            stored = await self.runtime.store.open(self.address, self.epoch)
        except Fenced as fenced:  # either the claim is stale, or the directory lost its past
            self.epoch = await self.runtime.directory.outrun(self.address, fenced.stored)
            stored = await self.runtime.store.open(self.address, self.epoch)
        if stored is None:
            return state.new()
        self._stored = stored
        return state.decode(stored, self.address)

    def request_deactivation(self, reason: str = "requested") -> None:
        """Deactivate as soon as nothing runs. What waits is handed on to the next activation."""
        if self._closing_for is None and self.status in (Status.ACTIVE, Status.ACTIVATING):
            self._closing_for = reason
            if self.status is Status.ACTIVE and self._turn is None and not self._beside:
                self._close()

    def _close(self) -> None:
        if self.status is Status.ACTIVE:
            self.status = Status.CLOSING
            self.runtime.spawn(self._deactivate(self._closing_for or "requested"))

    async def _deactivate(self, reason: str) -> None:
        try:
            current_turn.set(Lifecycle(self.address))
            async with asyncio.timeout(self.runtime.settings.activation_timeout):
                await self.actor.on_deactivate(reason)
        except Exception:
            log.exception("%s: on_deactivate(%r) failed; the state is stored as it is", self.address, reason)
        if self.type.state is not None and self.type.stored and not self.gone:
            try:
                state = self.type.state.encode(self.actor.state, self.address)
            except SerializationFailed as error:
                log.error("%s: what changed since the last commit is lost", error)
            else:
                if state != self._stored and not await self.commit(None, state):
                    return
        await self._leave()

    async def _leave(self) -> None:
        """Release the address, then hand on what came in meanwhile."""
        if self.gone:
            return
        try:
            await self.runtime.directory.release(self.address, self.epoch)
        except Exception as error:  # the entry stays ours, and is claimed again or swept
            log.warning("%s: could not be released: %s", self.address, error)
        self.status = Status.CLOSED
        self.runtime.remove(self)
        for turn in self._mailbox.drain():
            self.runtime.hand_on(turn)

    def _fail_activation(self, error: BaseException) -> None:
        """Everyone who waits gets the error; the next message after that finds a new activation."""
        if self.gone:
            return
        self._failure = error
        self.status = Status.CLOSING
        for turn in self._mailbox.drain():
            turn.answer(self._failed_to_activate(turn.request.id))
        self.runtime.spawn(self._leave())

    def fail_turn(self, turn: Turn | None, error: ActorError) -> None:
        """Nothing that happened since the last commit may be seen: end what runs, hand on what waits."""
        if self.gone:
            return
        self.status = Status.CLOSING
        for running in self._running():
            if running.task is not None and running is not turn:
                running.task.cancel()
            running.answer(failure.refusal(running.request.id, error))
        self._turn, self._beside = None, None
        self.runtime.spawn(self._leave())

    def _runs(self, turn: Turn) -> bool:
        return turn is self._turn or (self._beside is not None and turn in self._beside)

    def _running(self) -> list[Turn]:
        return [turn for turn in (self._turn, *(self._beside or ())) if turn is not None]

    def drop(self) -> None:
        """The silo may act no more: forget everything at once, committing and releasing nothing."""
        running = self._running()
        self.status = Status.CLOSED
        self._turn, self._beside = None, None
        lost = ConnectionLost(f"{self.address}: its silo lost its lease while the call was under way")
        for turn in running:
            if turn.task is not None:
                turn.task.cancel()
            turn.answer(failure.refusal(turn.request.id, lost))
        for turn in self._mailbox.drain():
            self.runtime.hand_on(turn)
