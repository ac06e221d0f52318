"""The calls that code of this process makes, from a reference to the answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from actors import codec
from actors.actor_type import ActorType
from actors.builtin import CLOSE, PUBLISH
from actors.calls import AnswerCall, StreamCall
from actors.context import check_may, current_turn, gathering_turn
from actors.envelope import Accepted, Envelope, Leave, Mode, Reply, Request
from actors.errors import ClusterUnavailable, Interrupted, MailboxFull, Rejected
from actors.guest import Room
from actors.handler import HandlerSpec
from actors.publishing import add_entries, publish_own
from actors.records import CLOSED, ChannelItem
from actors.ref import ActorRef, Receipt

if TYPE_CHECKING:
    from actors.runtime import Runtime


class Outbound:
    """What references call: the ``Caller`` of a runtime."""

    def __init__(self, runtime: "Runtime") -> None:
        self.runtime = runtime
        self.requests = runtime.requests
        self.room = Room(runtime.settings)
        """For calls of this process that are under way."""
        self._spare = 0

    async def ask(self, ref: ActorRef, handler: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        """Request and reply. See ``ActorRef.ask``."""
        spec = self._spec(ref, handler)
        request = self.requests.make(ref, handler, args, kwargs, Mode.ASK, spec)
        turn = gathering_turn()
        if turn is not None:
            await turn.admitted()  # nobody may hear of a message that is not durable yet, if that was promised
        call = AnswerCall(request, self.runtime.loop.create_future())
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
        envelope, _ = await self._answer(AnswerCall(request, self.runtime.loop.create_future()))
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
        call = StreamCall(
            self.requests.make(ref, handler, args, kwargs, Mode.STREAM, spec), self.runtime, spec, raw=raw
        )
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
            if not call.ended and call in self.runtime.calls:
                self.runtime.say(call, Leave(call.request.id))
                self.runtime.calls.close(call)
                self.runtime.ties.gave_up(call.request)

    async def publish(self, ref: ActorRef, channel: str, item: object) -> None:
        """See ``Channel.publish``."""
        turn = current_turn.get(None)
        if turn is None or turn.address != ref.address:
            await self.ask(ref, PUBLISH, (channel, item), {})
        else:
            await publish_own(turn, channel, (item,))

    async def close_channel(self, ref: ActorRef, channel: str) -> None:
        """See ``Channel.close``."""
        turn = current_turn.get(None)
        if turn is None or turn.address != ref.address:
            await self.ask(ref, CLOSE, (channel,), {})
        else:
            await add_entries(turn, channel, [ChannelItem("closed", CLOSED)])

    def deliver(self, request: Request) -> "asyncio.Future[tuple[Envelope, bool]]":
        """Send a message of an actor's outbox. The result is its acceptance, or raises an ``ActorError``."""
        request.id = self.runtime.next_id()
        request.timeout = self.runtime.settings.delivery_timeout
        call = AnswerCall(request, self.runtime.loop.create_future())
        call.future.add_done_callback(lambda _: self.runtime.calls.close(call))
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
            self.runtime.ties.gave_up(call.request)
            raise
        finally:
            self.runtime.calls.close(call)

    def _check_caller(self) -> None:
        """Raise ``CancelledError`` in a turn whose silo has slept through its lease: others may run it by now."""
        turn = current_turn.get(None)
        if turn is not None and not self.runtime.may_act():
            self.runtime.stop_acting()
            raise asyncio.CancelledError(f"{turn.address}: its silo has lost its lease")

    def _start(self, call: AnswerCall | StreamCall) -> None:
        if self.runtime.closed:
            raise ClusterUnavailable(f"{call.request.address}: the runtime is closed")
        self.runtime.calls.begin(call, call.request.timeout)
        self.runtime.router.dispatch(call)

    def _check_room(self, call: AnswerCall | StreamCall) -> None:
        """Count a call of somebody's code, until it has ended. Raises ``MailboxFull`` or ``ClusterUnavailable``."""
        request, room = call.request, self.room
        if self.runtime.closed:
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
        actor_type = self.runtime.types.get(ref.address.partition("-")[0])
        if actor_type is None:
            if ref._actor is None:
                return None
            actor_type = ActorType.of(ref._actor)
        return actor_type.handlers.get(handler)
