"""The engine of one silo or client: its activations, its calls under way, and what it says on its links."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from actors.activation import Activation
from actors.actor import Actor
from actors.actor_type import ActorType
from actors.agenda import Agenda
from actors.calls import AcceptedCall, Call, ForwardedCall, QuestionCall
from actors.claims import Claims
from actors.code_version import check as check_version
from actors.commits import Write
from actors.envelope import Credit, Envelope, Leave, Mode, NotHere, Query, Request, Resolve
from actors.errors import (
    ActorError,
    ClusterUnavailable,
    ConnectionLost,
)
from actors.guest import Guest, LocalCaller, Room
from actors.handing_on import HandingOn
from actors.idleness import Idleness
from actors.inbound import Inbound
from actors.limit import Limits
from actors.load import Load, load_of
from actors.migration import Arrival, Migration
from actors.older_code import Abstention
from actors.outbound import Outbound
from actors.pending import PendingCalls
from actors.ports import Clock, Directory, Link, Store, Transport
from actors.ref import current_caller
from actors.requests import Requests
from actors.router import Router
from actors.run_queue import RunQueue
from actors.settings import Settings
from actors.shares import Shares
from actors.step_threads import StepThreads
from actors.ties import Ties
from actors.turn import Turn

log = logging.getLogger("actors")

_STOPPED = "its silo was stopped"
LAST_MOVES = 3.0  # seconds for what was cut off to be noted, or to go elsewhere with its memory


class Runtime:
    """Hosts activations, routes calls and correlates their answers, over the ports that it is given.

    A runtime without actor types and ``hosting=False`` is a client: it leaves the finding of owners to the silo that
    its transport is connected to. ``version`` is that of the actors' code; see ``actors.code_version``.
    """

    def __init__(
        self,
        actors: Iterable[type[Actor]] = (),
        *,
        directory: Directory,
        transport: Transport,
        store: Store,
        clock: Clock,
        settings: Settings | None = None,
        hosting: bool = True,
        version: str = "",
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.directory = directory
        self.transport = transport
        self.store = store
        self.clock = clock
        self.settings = settings or Settings()
        self.hosting = hosting
        self.version = check_version(version)
        self.types = actor_types(actors)
        self.activations: dict[str, Activation] = {}
        self.local = LocalCaller(self)
        self.queries: dict[str, Callable[[str], Awaitable[object]]] = {}
        """What this runtime can tell about the cluster, by topic."""
        self.closed = False
        self.draining = False
        self.room = Room(self.settings)
        """For requests that come over links."""
        self.run_queue = RunQueue(self.loop)
        self.waiting = Shares(self.settings.max_waiting_bytes)
        """What all mailboxes hold."""
        self.calls = PendingCalls(
            self.loop, on_close=self._call_ended, on_silence=lambda call: self.say(call, Leave(call.request.id))
        )
        self.claims = Claims(self)
        self.handing_on = HandingOn(self)
        self._idleness = Idleness(self.loop)
        self.limits = Limits(self.loop)
        self.step_threads = StepThreads(self.settings.max_step_threads)
        self.requests = Requests(self.settings)
        self.abstention = Abstention(self)
        self._agenda = Agenda(self)
        self.ties = Ties(self)
        self.router = Router(self)
        self.migration = Migration(self)
        self.streams: dict[tuple[object, int], Turn | ForwardedCall] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.context = contextvars.copy_context()
        self.inbound = Inbound(self)
        self.outbound = Outbound(self)
        self.context.run(current_caller.set, self.outbound)

    async def apply(self, activation: Activation, write: Write) -> None:
        """Hand a commit to the store. Raises ``ClusterUnavailable`` where the activation can commit no more."""
        if not await activation.write(write):
            raise ClusterUnavailable(f"{activation.address}: the activation has ended; nothing was stored")

    def check_size(self, payload: bytes, where: str) -> None:
        """Raise ``PayloadTooLarge`` if the payload is over the limit."""
        self.requests.check_size(payload, where)

    def acknowledge(self, answers: list[tuple[str, str]]) -> None:
        """The answers to these messages are needed no more."""
        self.requests.acknowledge(answers)

    # -- calls under way --------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """A request id that was never used on any link of this runtime."""
        return self.requests.next_id()

    async def question(self, link: Link, question: Resolve | Query, *, about: str) -> Envelope:
        """Ask the other side of a link something and wait for its answer. Raises the ``ActorError`` that it answers."""
        future: asyncio.Future[Envelope] = self.loop.create_future()
        call = QuestionCall(Request(question.id, about, "", b"", Mode.ASK, 0, ""), future)
        call.link = link
        self.calls.begin(call, self.settings.activation_timeout)
        link.send(question)
        return await future

    def _call_ended(self, call: Call) -> None:
        if call.room is not None:
            call.room.give_back(call.request.caller)
            call.room = None
        elif type(call) is ForwardedCall:
            self.streams.pop((call.origin, call.origin_id), None)

    def begin_forwarding(self, request: Request, guest: Guest) -> ForwardedCall:
        """Pass a message of a guest on, under an id of this runtime's own."""
        call = ForwardedCall(request, guest, request.id)
        if request.mode is Mode.STREAM:
            self.streams[guest, request.id] = call
        request.id = self.requests.next_id()
        # The client's own deadline ends the wait; a stream may go on for any time after its first item.
        self.calls.begin(call, 0.0 if request.mode is Mode.STREAM or not request.timeout else request.timeout + 1)
        call.order = request.id
        return call

    def say(self, call: Call, envelope: Credit | Leave) -> None:
        """Tell the other side of a stream something."""
        if call.link is not None:
            call.link.send(envelope)
        elif not call.held_for:
            self.inbound.on_stream_control(self.local, envelope)

    def on_answer(self, envelope: Envelope, link: Link | None) -> None:
        """An answer to a call of this runtime has come: from a link, or from an activation that lives here."""
        call = self.calls.get(envelope.id)
        if call is None or call.link is not link:
            return  # it timed out, or was sent again elsewhere
        if type(envelope) is NotHere:
            self._look_again(call, envelope, link)
        elif call.on_envelope(envelope, trusted=link is None or link.trusted):
            self.calls.close(call)

    def _look_again(self, call: Call, answer: NotHere, link: Link | None) -> None:
        if answer.began:
            call.request.attempt = max(1, call.request.attempt + answer.lost)
        if call.request.attempt > self.settings.max_attempts:
            self.calls.end(call, call.lost())
        else:
            self.router.hold(call, fence=link.peer if link is not None and self.hosting else "")

    # -- activations ------------------------------------------------------------------------------------------------

    def activate(self, address: str, actor_type: ActorType, epoch: int, arrival: Arrival | None) -> None:
        """Let the actor live here, with what it brings."""
        luggage = arrival.luggage if arrival is not None and arrival.epoch <= epoch else b""
        activation = Activation(self, address, actor_type, epoch, luggage=luggage)
        self.activations[address] = activation
        if arrival is not None:
            for request in arrival.messages:  # they have waited the longest
                activation.accept(request, arrival.guest)
        self.router.arrived(address)  # before anything can go wrong: who waits here gets the reason
        activation.start()
        if self.draining:  # it came when that had begun
            activation.request_deactivation("shutdown", to="")

    def may_take(self, address: str) -> bool:
        """Whether something may be done to an actor here now, with no earlier call to it on its way."""
        return not self.closed and self.may_act() and self.router.is_clear(address)

    @property
    def held_bytes(self) -> int:
        """About how much waits for owners to be found."""
        return self.router.held_bytes

    def load(self) -> Load:
        """What is under way and waits now."""
        return load_of(self)

    def may_act(self) -> bool:
        """Whether this silo is certainly still a member, by its own clock."""
        return self.clock.now() < self.directory.deadline

    def vanish(self) -> None:
        """Let every activation be gone as if the process had died."""
        self.closed = True
        dropped, self.activations = self.activations, {}
        for activation in dropped.values():
            activation.vanish()

    def revisit(self, address: str) -> None:
        """Something durable waits at the address, and its activation failed: try again in a while."""
        self._agenda.revisit(address)

    async def wake(self, address: str) -> None:
        """Make sure that the address is active somewhere, though nobody calls it."""
        await self.router.wake(address)

    async def keep_agenda(self) -> None:
        """See to addresses that have work to do and no caller, until cancelled. For a silo that is a member."""
        await self._agenda.run()

    def stop_acting(self, why: str = "its silo lost its lease") -> None:
        """Drop every activation at once, committing and answering nothing: the silo may not, or will not, go on."""
        dropped, self.activations = self.activations, {}
        if dropped:
            log.warning("%s drops %d activations: %s", self.directory.silo, len(dropped), why)
        for activation in dropped.values():
            activation.drop(why)

    def remove(self, activation: Activation) -> None:
        """An activation has ended."""
        if self.activations.get(activation.address) is activation:
            del self.activations[activation.address]

    def hears(self, turn: Turn) -> bool:
        """Whether somebody waits for what becomes of the message."""
        if any(self.hears(joiner) for joiner in turn.joiners or ()):
            return True
        if turn.left or turn.said or turn.expires <= self.loop.time():
            return False
        if isinstance(turn.origin, LocalCaller):
            return self.calls.get(turn.request.id) is not None
        return not turn.origin.closed

    def watch_idleness(self, activation: Activation) -> None:
        """Deactivate it when it has been idle for its ``idle_timeout``."""
        self._idleness.watch(activation)

    def forget_idleness(self, activation: Activation) -> None:
        """The activation has ended."""
        self._idleness.forget(activation)

    def remember_stream(self, turn: Turn) -> None:
        """Let Credit and Leave of the stream's reader find its turn."""
        self.streams[turn.origin, turn.request.id] = turn

    def forget_stream(self, turn: Turn) -> None:
        """The stream has ended."""
        self.streams.pop((turn.origin, turn.request.id), None)

    # -- life -------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run the engine's own work in the background, in the engine's own context."""
        task = self.loop.create_task(work, context=self.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, *, limit: float) -> int:
        """Move every activation to another silo, storing its state; running turns have ``limit`` seconds to end.

        Messages that wait are handed on to other silos, and calls that go through this one are waited for, within the
        limit. Returns how many activations had to be cut off.
        """
        self.draining = True
        for activation in list(self.activations.values()):
            activation.request_deactivation("shutdown", to="")
        end = self.loop.time() + limit
        while self._unfinished() and self.loop.time() < end:  # noqa: ASYNC110  # it only looks every 10 ms
            await asyncio.sleep(0.01)
        left = len(self.activations)
        for activation in list(self.activations.values()):
            log.warning(
                "%s: its turn did not end within %g s of the shutdown and is cut off", activation.address, limit
            )
            if activation.durable is None:  # what it has in memory can go on without the turn
                activation.cut_off()
            else:
                self.spawn(self._give_back(activation))
        end = self.loop.time() + LAST_MOVES  # a store that hangs must not hold up the others
        while self.activations and self.loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.stop_acting(_STOPPED)
        return left

    async def _give_back(self, activation: Activation) -> None:
        await activation.give_back()
        if self.activations.get(activation.address) is activation:
            self.remove(activation)
            activation.drop(_STOPPED)

    def _unfinished(self) -> bool:
        """Whether activations are left, or calls of others that this runtime has promised to pass on."""
        return bool(self.activations) or any(isinstance(call, AcceptedCall | ForwardedCall) for call in self.calls)

    async def close(self) -> None:
        """End everything at once. What was not drained is dropped; every open call fails."""
        self.closed = True
        self._idleness.close()
        self.limits.close()
        self.stop_acting(_STOPPED)
        for call in self.calls:
            if isinstance(call, ForwardedCall) and call.repeatable:
                self.calls.close(call)  # its caller tries another way when its link to this silo ends
        self.calls.end_all(_closed_here)
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _closed_here(call: Call) -> ActorError:
    if call.link is None and call.held_for:
        return ClusterUnavailable(f"{call.request.address}: closed here before the message could be delivered")
    return ConnectionLost(f"{call.request.address}: closed here before the answer came; the message may have run")


def actor_types(actors: Iterable[type[Actor]]) -> dict[str, ActorType]:
    """The actor classes by type name. Raises ``ValueError`` if two classes share one."""
    types: dict[str, ActorType] = {}
    for actor in actors:
        found = ActorType.of(actor)
        other = types.setdefault(found.name, found)
        if other.actor is not actor:
            raise ValueError(
                f"{actor.__module__}.{actor.__qualname__} and {other.actor.__module__}.{other.actor.__qualname__} "
                f'have the same actor type "{found.name}"; give one of them `class X(Actor, type="...")`'
            )
    return types
