"""The engine of one silo or client: its activations, its calls under way, and what it says on its links."""

import asyncio
import contextvars
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import timedelta
from typing import Any

import msgspec

from actors import codec, failure
from actors.activation import Activation
from actors.actor import Actor, ActorType
from actors.address import is_address, listed, parse_address
from actors.agenda import Agenda
from actors.builtin import CLOSE, PUBLISH
from actors.calls import AcceptedCall, AnswerCall, Call, ForwardedCall, QuestionCall, StreamCall
from actors.code_version import check as check_version
from actors.context import check_may, current_turn, gathering_turn
from actors.durable import Write
from actors.durations import seconds
from actors.effects import Effects
from actors.envelope import Accepted, Credit, Envelope, Leave, Located, Mode, NotHere, Query, Reply, Request, Resolve
from actors.errors import (
    ActorError,
    ClusterUnavailable,
    ConnectionLost,
    Interrupted,
    MailboxFull,
    Rejected,
    SerializationFailed,
    UnknownActorType,
)
from actors.guest import Guest, Room
from actors.handler import HandlerSpec
from actors.idleness import Idleness
from actors.limit import Limits
from actors.load import Load, load_of
from actors.migration import MOVE, MOVED, Arrival, Migration
from actors.older_code import Abstention
from actors.pending import PendingCalls
from actors.ports import Clock, Directory, Link, Route, Store, Transport
from actors.publishing import check_public
from actors.records import CLOSED, ChannelItem, Reminder
from actors.ref import ActorRef, Receipt, current_caller
from actors.requests import Requests
from actors.router import Router
from actors.run_queue import RunQueue
from actors.settings import Settings
from actors.shares import Shares
from actors.ties import Ties
from actors.turn import Lifecycle, Turn

log = logging.getLogger("actors")

_STOPPED = "its silo was stopped"
LAST_MOVES = 3.0  # seconds for what was cut off to be noted, or to go elsewhere with its memory


class LocalCaller:
    """Where answers to this runtime's own calls go when the actor lives here."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    def send(self, envelope: Envelope) -> None:
        """Answer a call of this runtime."""
        self._runtime.on_answer(envelope, None)


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
        self.own_room = Room(self.settings)
        """For calls that this runtime makes."""
        self.run_queue = RunQueue(self.loop)
        self.waiting = Shares(self.settings.max_waiting_bytes)
        """What all mailboxes hold."""
        self._guests: dict[Link, Guest] = {}
        self.calls = PendingCalls(
            self.loop, on_close=self._call_ended, on_silence=lambda call: self.say(call, Leave(call.request.id))
        )
        self._claims: dict[str, asyncio.Future[Route]] = {}
        self._idleness = Idleness(self.loop)
        self.limits = Limits(self.loop)
        self.requests = Requests(self.settings)
        self.abstention = Abstention(self)
        self._agenda = Agenda(self)
        self._ties = Ties(self)
        self._router = Router(self)
        self.migration = Migration(self)
        # Once a silo was told NotHere, it is told so for every request until it asks again where the address is: else
        # one that comes when the actor has just been activated here would overtake those that are on their way back.
        self._bounced: set[tuple[Guest, str]] = set()
        self._streams: dict[tuple[object, int], Turn | ForwardedCall] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spare = 0
        self.context = contextvars.copy_context()
        self.context.run(current_caller.set, self)

    # -- what references call ---------------------------------------------------------------------------------------

    async def ask(self, ref: ActorRef, handler: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        """Request and reply. See ``ActorRef.ask``."""
        spec = self._spec(ref, handler)
        request = self.requests.make(ref, handler, args, kwargs, Mode.ASK, spec)
        turn = gathering_turn()
        if turn is not None:
            await turn.admitted()  # nobody may hear of a message that is not durable yet, if that was promised
        call = AnswerCall(request, self.loop.create_future())
        envelope, trusted = await self._answer(call)
        assert isinstance(envelope, Reply)
        if envelope.recorded and not request.attempt:
            if turn is not None:  # it may run again, and then asks again
                turn.asked = turn.asked or []
                turn.asked.append((request.address, request.message_id))
            else:
                self.requests.acknowledge([(request.address, request.message_id)])
        if spec is not None and request.typed:
            return spec.decode_result(envelope.payload, trusted=trusted)
        return codec.decode(envelope.payload, trusted=trusted and not request.outside)

    async def send(self, ref: ActorRef, handler: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Receipt:
        """One way. See ``ActorRef.send``."""
        request = self.requests.make(ref, handler, args, kwargs, Mode.SEND, self._spec(ref, handler))
        turn = gathering_turn()
        if turn is None:
            check_may("send")
        else:
            turn.gathered.sends.append(request)
            return Receipt(request.message_id)
        envelope, _ = await self._answer(AnswerCall(request, self.loop.create_future()))
        if isinstance(envelope, Accepted) and envelope.recorded and not request.attempt:
            self.requests.acknowledge([(request.address, request.message_id)])
        known_as = envelope.message_id if isinstance(envelope, Accepted) else ""
        return Receipt(known_as or request.message_id)

    async def stream(
        self,
        ref: ActorRef,
        handler: str,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        *,
        raw: bool = False,
    ) -> AsyncIterator[Any]:
        """Live items of one call. See ``RemoteHandler.stream``. ``raw``: as encoded bytes."""
        spec = self._spec(ref, handler)
        call = StreamCall(self.requests.make(ref, handler, args, kwargs, Mode.STREAM, spec), self, spec, raw=raw)
        self._check_caller()
        self._check_room(call)
        self._start(call)
        try:
            while True:
                while not call.has_news:
                    await call.news()
                more, item = call.take()
                if not more:
                    return
                yield item
        finally:
            if not call.ended and call in self.calls:
                self.say(call, Leave(call.request.id))
                self.calls.close(call)
                self._ties.gave_up(call.request)

    async def publish(self, ref: ActorRef, channel: str, item: object) -> None:
        """See ``Channel.publish``."""
        turn = current_turn.get(None)
        if turn is None or turn.address != ref.address:
            await self.ask(ref, PUBLISH, (channel, item), {})
        else:
            await self.publish_own(turn, channel, (item,))

    async def publish_own(self, turn: Turn | Lifecycle, channel: str, items: Iterable[object]) -> None:
        """Add entries to a channel of the actor whose turn runs: as ``Channel.publish`` for each of them."""
        where = f"{turn.address}/{channel}"
        entries = []
        for item in items:
            try:
                payload = codec.encode(item)
            except Exception as error:
                raise SerializationFailed(f"{where}: {type(item).__name__} cannot be published: {error}") from error
            self.check_size(payload, where)
            entries.append(ChannelItem("item", payload))
        await self._add_entries(turn, channel, entries)

    async def close_channel(self, ref: ActorRef, channel: str) -> None:
        """See ``Channel.close``."""
        turn = current_turn.get(None)
        if turn is None or turn.address != ref.address:
            await self.ask(ref, CLOSE, (channel,), {})
        else:
            await self._add_entries(turn, channel, [ChannelItem("closed", CLOSED)])

    async def _add_entries(self, turn: Turn | Lifecycle, channel: str, entries: list[ChannelItem]) -> None:
        """Entries of the actor's own: part of the commit of the turn that runs, if one does."""
        durable = turn.activation.durable_side
        check_public(turn.address, channel)
        log = durable.channel(channel)
        check_may("publish")
        closing = entries[-1].kind == "closed"
        if isinstance(turn, Turn) and turn.gathers:
            if turn.has_closed(channel):
                if not closing:
                    raise log.is_closed(turn.address)
                return
            if not closing:
                log.check_open(turn.address, turn)
            log.hold(turn)
            for entry in entries:
                entry.turn = turn.request.message_id
            turn.gathered.items.setdefault(channel, []).extend(entries)
            return
        if not closing:
            log.check_open(turn.address)
        effects = Effects()
        effects.items[channel] = entries
        await self.apply(turn.activation, durable.apart(effects))

    async def set_reminder(
        self, activation: Activation, name: str, after: float | None, every: timedelta | float | None
    ) -> None:
        """See ``Actor.remind``; ``after`` None cancels."""
        if not 0 < len(name.encode()) <= 200:
            raise ValueError(f"a reminder's name is text of 1 to 200 bytes, not {name!r}")
        period = 0.0 if every is None else seconds("every", every, positive=True)
        row = None if after is None else Reminder(secrets.token_hex(8), self.clock.time() + after, period)
        turn = current_turn.get(None)
        activation.check_durable()
        if isinstance(turn, Turn) and turn.activation is activation and turn.gathers:
            turn.gathered.reminders[name] = row
        else:
            check_may("set reminders")
            effects = Effects()
            effects.reminders[name] = row
            await self.apply(activation, activation.durable_side.apart(effects))

    async def apply(self, activation: Activation, write: Write) -> None:
        """Hand a commit to the store. Raises ``ClusterUnavailable`` where the activation can commit no more."""
        if not await activation.write(write):
            raise ClusterUnavailable(f"{activation.address}: the activation has ended; nothing was stored")

    def deliver(self, request: Request) -> "asyncio.Future[tuple[Envelope, bool]]":
        """Send a message of an actor's outbox. The result is its acceptance, or raises an ``ActorError``."""
        request.id = self.next_id()
        request.timeout = self.settings.delivery_timeout
        call = AnswerCall(request, self.loop.create_future())
        call.future.add_done_callback(lambda _: self.calls.close(call))
        self._start(call)
        return call.future

    async def _answer(self, call: AnswerCall) -> tuple[Envelope, bool]:
        try:
            return await self._answer_of(call)
        except Rejected:  # perhaps before anybody has read what else it says
            self.requests.acknowledge((call.request.address, message_id) for message_id in call.request.done)
            raise

    async def _answer_of(self, call: AnswerCall) -> tuple[Envelope, bool]:
        self._check_caller()
        self._check_room(call)
        self._start(call)
        if call.future.done():
            self._spare += 1
            if self._spare >= 32:  # a caller of a local actor that answers at once must not hold up the loop
                self._spare = 0
                await asyncio.sleep(0)
            return call.future.result()
        try:
            return await call.future
        except (asyncio.CancelledError, Interrupted):
            self._ties.gave_up(call.request)
            raise
        finally:
            self.calls.close(call)

    def _check_caller(self) -> None:
        """Raise ``CancelledError`` in a turn whose silo has slept through its lease: others may run it by now."""
        turn = current_turn.get(None)
        if turn is not None and not self.may_act():
            self.stop_acting()
            raise asyncio.CancelledError(f"{turn.address}: its silo has lost its lease")

    def _start(self, call: AnswerCall | StreamCall) -> None:
        if self.closed:
            raise ClusterUnavailable(f"{call.request.address}: the runtime is closed")
        self.calls.begin(call, call.request.timeout)
        self._router.dispatch(call)

    def _check_room(self, call: AnswerCall | StreamCall) -> None:
        """Count a call of somebody's code, until it has ended. Raises ``MailboxFull`` or ``ClusterUnavailable``."""
        request, room = call.request, self.own_room
        if self.closed:
            raise ClusterUnavailable(f"{request.address}: the runtime is closed")
        share = room.streams if request.mode is Mode.STREAM else room.calls
        if not share.has_room(request.caller) and not room.stops(request):
            room.refused += 1
            raise MailboxFull(
                f"{request.address}: {share.taken:,} of at most {share.limit:,} calls or streams of this process are "
                f"under way, shared by {share.callers:,} callers; call less or later, or raise max_calls or max_streams"
            )
        call.room = share
        share.take(request.caller)

    def _spec(self, ref: ActorRef, handler: str) -> HandlerSpec | None:
        actor_type = self.types.get(ref.address.partition("-")[0])
        if actor_type is None:
            if ref._actor is None:
                return None
            actor_type = ActorType.of(ref._actor)
        return actor_type.handlers.get(handler)

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
            self._streams.pop((call.origin, call.origin_id), None)

    def say(self, call: Call, envelope: Credit | Leave) -> None:
        """Tell the other side of a stream something."""
        if call.link is not None:
            call.link.send(envelope)
        elif not call.held_for:
            self._on_stream_control(self.local, envelope)

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
            self._router.hold(call, fence=link.peer if link is not None and self.hosting else "")

    # -- what comes in over links -----------------------------------------------------------------------------------

    def on_envelopes(self, link: Link, envelopes: list[Envelope]) -> None:
        """Envelopes have arrived. See ``LinkHandler``."""
        if self.closed:  # the links end next: their other sides ask elsewhere what they ask now
            for envelope in envelopes:
                if type(envelope) is Request:
                    link.send(NotHere(envelope.id))
            return
        guest = self._guests.get(link)
        if guest is None and not link.closed:
            guest = self._guests[link] = Guest(link, self.room)
        if guest is None:
            return
        self.run_queue.begin_slice()
        for envelope in envelopes:
            kind = type(envelope)
            try:
                if kind is Request:
                    self._on_request(guest, envelope)  # type: ignore[arg-type]
                elif kind is Resolve:
                    self.spawn(self._on_resolve(guest, envelope))  # type: ignore[arg-type]
                elif kind is Query:
                    self.spawn(self._on_query(guest, envelope))  # type: ignore[arg-type]
                elif kind is Credit or kind is Leave:
                    self._on_stream_control(guest, envelope)  # type: ignore[arg-type]
                else:
                    self.on_answer(envelope, link)
            except Exception:
                log.exception("a %s from %s could not be handled", kind.__name__, link.peer)
        self.run_queue.end_slice()

    def _on_request(self, guest: Guest, request: Request) -> None:
        if not guest.trusted:
            request.trusted = False
        if not (guest.peer_is_silo and request.caller):
            request.client = guest.peer
        refusal = guest.enter(request)
        if refusal is not None:
            guest.send(failure.refusal(request.id, refusal))
            return
        if not guest.peer_is_silo:
            self._ties.note(guest, request)
        activation = self.activations.get(request.address)
        in_order = (
            (guest, request.address) not in self._bounced
            if guest.peer_is_silo
            else self._router.is_clear(request.address)
        )
        if activation is not None and in_order and self.may_act():
            activation.accept(request, guest)
        elif guest.peer_is_silo:
            if activation is not None or not self.migration.keep(guest, request):
                self.turn_away(request, guest)
        elif not is_address(request.address):
            guest.send(failure.refusal(request.id, Rejected(f"malformed address {request.address!r}")))
        else:
            self._router.dispatch(self._begin_forwarding(request, guest))

    def turn_away(self, request: Request, guest: Guest) -> None:
        """The actor does not live here, or does not yet: the silo that sent the message is to look for it again."""
        self._bounced.add((guest, request.address))
        guest.send(NotHere(request.id))

    def _begin_forwarding(self, request: Request, guest: Guest) -> ForwardedCall:
        call = ForwardedCall(request, guest, request.id)
        if request.mode is Mode.STREAM:
            self._streams[guest, request.id] = call
        request.id = self.requests.next_id()
        # The client's own deadline ends the wait; a stream may go on for any time after its first item.
        self.calls.begin(call, 0.0 if request.mode is Mode.STREAM or not request.timeout else request.timeout + 1)
        call.order = request.id
        return call

    async def _on_resolve(self, guest: Guest, question: Resolve) -> None:
        if not question.wakes:
            self._bounced.discard((guest, question.address))
        try:
            route = await self.own(question.address)
            if route.silo != self.directory.silo:
                await self._router.learn(question.address, route)  # before the others, for what was handed on is older
            activation = self.activations.get(question.address)
            failed = await activation.ready() if activation is not None else None
        except ActorError as error:
            guest.send(failure.refusal(question.id, error))
        except Exception as error:
            log.exception("%s could not be claimed", question.address)
            guest.send(failure.refusal(question.id, ClusterUnavailable(f"{question.address}: {error}")))
        else:
            if failed is None:
                guest.send(Located(question.id, route.silo, route.epoch))
            else:
                guest.send(msgspec.structs.replace(failed, id=question.id))

    async def _on_query(self, guest: Guest, query: Query) -> None:
        answer = self.queries.get(query.topic)
        try:
            if query.topic in (MOVE, MOVED):
                self.migration.on_query(guest, query)
                guest.send(Reply(query.id, codec.encode(None)))
                return
            if answer is None:
                raise Rejected(f"this silo cannot answer {query.topic!r} (it can: {', '.join(sorted(self.queries))})")
            guest.send(Reply(query.id, codec.encode(await answer(query.argument))))
        except ActorError as error:
            guest.send(failure.refusal(query.id, error))
        except Exception as error:
            log.warning("%r could not be answered: %s", query.topic, error)
            guest.send(failure.refusal(query.id, ClusterUnavailable(f"{query.topic}: {error}")))

    def _on_stream_control(self, origin: object, envelope: Credit | Leave) -> None:
        if type(envelope) is Leave and isinstance(origin, Guest):
            origin.over(envelope.id)
        found = self._streams.get((origin, envelope.id))
        if isinstance(found, ForwardedCall):
            envelope.id = found.request.id
            self.say(found, envelope)
            if type(envelope) is Leave:
                self.calls.close(found)
        elif found is not None:
            if type(envelope) is Credit:
                found.add_credit(envelope.amount)
            else:
                self.forget_stream(found)
                found.leave()
        elif type(envelope) is Leave:
            self.migration.left(origin, envelope.id)

    def on_closed(self, link: Link, unsent: list[Envelope]) -> None:
        """A link is gone. See ``LinkHandler``."""
        guest = self._guests.pop(link, None)
        if guest is not None:
            self._ties.closed(guest)
            guest.leave()
        self.migration.closed(link)
        not_sent = {envelope.id for envelope in unsent if type(envelope) is Request}
        for call in [call for call in self.calls if call.link is link]:
            if call.request.id in not_sent:
                self._router.hold(call)  # it certainly did not arrive, so it may go elsewhere
            elif call.repeatable and call.request.attempt < self.settings.max_attempts:
                call.request.attempt += 1  # the actor tells from its id whether it ran
                self._router.hold(call)
            else:
                self.calls.end(call, call.lost())
        self._bounced = {bounced for bounced in self._bounced if bounced[0] is not guest}
        for key, reader in [(key, reader) for key, reader in self._streams.items() if key[0] is guest]:
            del self._streams[key]
            if isinstance(reader, ForwardedCall):
                self.say(reader, Leave(reader.request.id))
                self.calls.close(reader)
            else:
                reader.leave()

    # -- activations ------------------------------------------------------------------------------------------------

    async def own(self, address: str) -> Route:
        """Make sure that the address is active, here unless it lives elsewhere; return its owner.

        Raises ``UnknownActorType``, or ``ClusterUnavailable`` if the directory cannot answer.
        """
        activation = self.activations.get(address)
        if activation is not None:
            return Route(self.directory.silo, activation.epoch)
        try:
            parse_address(address)
        except ValueError as error:  # whoever asks for it made it up without a reference
            raise Rejected(str(error)) from None
        claim = self._claims.get(address)
        if claim is not None:
            return await asyncio.shield(claim)
        claim = self._claims[address] = self.loop.create_future()
        try:
            route = await self._claim(address)
        except BaseException as error:
            failed = error if isinstance(error, Exception) else ClusterUnavailable(f"{address}: the claim was given up")
            claim.set_exception(failed)
            claim.exception()  # nobody else may have waited for it
            raise
        else:
            claim.set_result(route)
            return route
        finally:
            del self._claims[address]

    async def _claim(self, address: str) -> Route:
        type_name = address.partition("-")[0]
        actor_type = self.types.get(type_name)
        if actor_type is None:
            known = listed(self.directory.types())
            raise UnknownActorType(f"{address}: no silo hosts the type {type_name!r} (known types: {known})")
        if self.closed or (self.draining and not self.migration.expects(address)):
            raise ClusterUnavailable(f"{address}: {self.directory.silo} is shutting down")
        if not self.may_act():
            raise ClusterUnavailable(f"{address}: {self.directory.silo} has lost its lease")
        incarnation = self.directory.silo
        if not self.migration.expects(address):
            lives_on = await self.abstention.check(address)
            if lives_on is not None:
                return lives_on
        arrival = await self.migration.arrival(address)
        if arrival is None:
            route = await self.directory.claim(address)
            if route.silo == incarnation:  # perhaps because it was handed over meanwhile
                arrival = await self.migration.arrival(address)
        else:
            route = Route(incarnation, arrival.epoch)
        if route.silo == incarnation == self.directory.silo and self.may_act() and not self.closed:
            self._activate(address, actor_type, route.epoch, arrival)
            return route
        if arrival is not None:
            self.migration.send_back(arrival)
        if route.silo == incarnation:
            raise ClusterUnavailable(f"{address}: {incarnation} lost its lease")
        return route

    def _activate(self, address: str, actor_type: ActorType, epoch: int, arrival: Arrival | None) -> None:
        luggage = arrival.luggage if arrival is not None and arrival.epoch <= epoch else b""
        activation = Activation(self, address, actor_type, epoch, luggage=luggage)
        self.activations[address] = activation
        if arrival is not None:
            for request in arrival.messages:  # they have waited the longest
                activation.accept(request, arrival.guest)
        self._router.arrived(address)  # before anything can go wrong: who waits here gets the reason
        activation.start()
        if self.draining:  # it came when that had begun
            activation.request_deactivation("shutdown", to="")

    def may_take(self, address: str) -> bool:
        """Whether something may be done to an actor here now, with no earlier call to it on its way."""
        return not self.closed and self.may_act() and self._router.is_clear(address)

    @property
    def held_bytes(self) -> int:
        """About how much waits for owners to be found."""
        return self._router.held_bytes

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
        await self._router.wake(address)

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

    def hand_on(self, turns: Iterable[Turn], *, bounce: bool = False, began: bool = False, lost: bool = False) -> None:
        """Messages were queued in an activation that ended: let them find the next one, in their order.

        ``bounce`` leaves that to the silos that sent them, where those still wait for an answer. ``began``: they had
        begun to run; ``lost``: and not in good order, which may happen to each so often and no more.
        """
        for call in self._calls_again(turns, bounce=bounce, began=began, lost=lost):
            self._router.hold(call, fence="" if bounce or self.draining else self.directory.silo)

    def follow(self, turns: Iterable[Turn], address: str, route: Route, link: Link) -> None:
        """Messages were queued in an activation that has moved, over this link: let them go after it."""
        if self.transport.link(route.silo) is link:
            self._router.follow(address, route, self._calls_again(turns), link)
        else:  # it ends: what is sent on it may be lost
            self.hand_on(turns)

    def _calls_again(
        self, turns: Iterable[Turn], *, bounce: bool = False, began: bool = False, lost: bool = False
    ) -> Iterator[Call]:
        """The calls of messages that were queued in an activation; see ``hand_on``."""
        order = 0
        for turn, repeats in _with_joiners(turns):
            request, origin = turn.request, turn.origin
            self.forget_stream(turn)
            call: Call | None
            unheard = turn.left or (not isinstance(origin, LocalCaller) and origin.closed)
            if turn.activation.durable is not None and (unheard or turn.said):
                continue  # it is in the durable inbox, or nobody was promised anything
            may_run = turn.row or (began and not repeats)
            if may_run:
                request.attempt = max(1, request.attempt + lost)
            if request.attempt > self.settings.max_attempts:
                turn.refuse(ConnectionLost(f"{turn.where}: its silo was lost {request.attempt} times while it ran"))
                continue
            if turn.said or unheard:  # nobody waits for an answer, so this runtime sees to it
                request.mode = Mode.SEND
                request.id = self.next_id()
                call = AcceptedCall(request)
                self.calls.begin(call, self.settings.delivery_timeout)
            elif isinstance(origin, LocalCaller):
                call = self.calls.get(request.id)
                order = max(order, request.id)
            elif bounce and origin.peer_is_silo:  # type: ignore[union-attr]
                origin.send(NotHere(request.id, may_run, lost))
                continue
            else:
                call = self._begin_forwarding(request, origin)  # type: ignore[arg-type]
            if call is not None:
                call.order = order
                yield call

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
        self._streams[turn.origin, turn.request.id] = turn

    def forget_stream(self, turn: Turn) -> None:
        """The stream has ended."""
        self._streams.pop((turn.origin, turn.request.id), None)

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


def _with_joiners(turns: Iterable[Turn]) -> Iterator[tuple[Turn, bool]]:
    """Each turn, and in its place those that repeat it; whether it is one of those."""
    for turn in turns:
        for joiner, _ in _with_joiners(turn.joiners or ()):
            yield joiner, True
        yield turn, False


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
