"""What comes in over links: requests, answers, and what clients and silos ask each other."""

import logging
from typing import TYPE_CHECKING

import msgspec

from actors import codec, failure
from actors.address import is_address
from actors.calls import ForwardedCall
from actors.envelope import Credit, Envelope, Leave, Located, NotHere, Query, Reply, Request, Resolve
from actors.errors import ActorError, ClusterUnavailable, Rejected
from actors.guest import Guest
from actors.migration import MOVE, MOVED
from actors.ports import Link

if TYPE_CHECKING:
    from actors.runtime import Runtime

log = logging.getLogger("actors")


class Inbound:
    """The ``LinkHandler`` of a runtime: lets each envelope get to what it is for."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._guests: dict[Link, Guest] = {}
        # Once a silo was told NotHere, it is told so for every request until it asks again where the address is: else
        # one that comes when the actor has just been activated here would overtake those that are on their way back.
        self._bounced: set[tuple[Guest, str]] = set()

    def on_envelopes(self, link: Link, envelopes: list[Envelope]) -> None:
        """Envelopes have arrived. See ``LinkHandler``."""
        if self._runtime.closed:  # the links end next: their other sides ask elsewhere what they ask now
            for envelope in envelopes:
                if type(envelope) is Request:
                    link.send(NotHere(envelope.id))
            return
        guest = self._guests.get(link)
        if guest is None and not link.closed:
            guest = self._guests[link] = Guest(link, self._runtime.room)
        if guest is None:
            return
        self._runtime.run_queue.begin_slice()
        for envelope in envelopes:
            kind = type(envelope)
            try:
                if kind is Request:
                    self._on_request(guest, envelope)  # type: ignore[arg-type]
                elif kind is Resolve:
                    self._runtime.spawn(self._on_resolve(guest, envelope))  # type: ignore[arg-type]
                elif kind is Query:
                    self._runtime.spawn(self._on_query(guest, envelope))  # type: ignore[arg-type]
                elif kind is Credit or kind is Leave:
                    self.on_stream_control(guest, envelope)  # type: ignore[arg-type]
                else:
                    self._runtime.on_answer(envelope, link)
            except Exception:
                log.exception("a %s from %s could not be handled", kind.__name__, link.peer)
        self._runtime.run_queue.end_slice()

    def _on_request(self, guest: Guest, request: Request) -> None:
        if not guest.trusted:
            request.trusted = False
        if not (guest.peer_is_silo and request.caller):
            request.client = guest.peer
        refusal = guest.enter(request)
        if refusal is not None:
            self._runtime.run_queue.refused()
            guest.send(failure.refusal(request.id, refusal))
            return
        if not guest.peer_is_silo:
            self._runtime.ties.note(guest, request)
        activation = self._runtime.activations.get(request.address)
        in_order = (
            (guest, request.address) not in self._bounced
            if guest.peer_is_silo
            else self._runtime.router.is_clear(request.address)
        )
        if activation is not None and in_order and self._runtime.may_act():
            activation.accept(request, guest)
        elif guest.peer_is_silo:
            if activation is not None or not self._runtime.migration.keep(guest, request):
                self.turn_away(request, guest)
        elif not is_address(request.address):
            guest.send(failure.refusal(request.id, Rejected(f"malformed address {request.address!r}")))
        else:
            self._runtime.router.dispatch(self._runtime.begin_forwarding(request, guest))

    def turn_away(self, request: Request, guest: Guest) -> None:
        """The actor does not live here, or does not yet: the silo that sent the message is to look for it again."""
        self._bounced.add((guest, request.address))
        guest.send(NotHere(request.id))

    async def _on_resolve(self, guest: Guest, question: Resolve) -> None:
        if not question.wakes:
            self._bounced.discard((guest, question.address))
        runtime = self._runtime
        try:
            route = await runtime.claims.own(question.address)
            if route.silo != runtime.directory.silo:
                await runtime.router.learn(question.address, route)  # first: what was handed on is older
            activation = runtime.activations.get(question.address)
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
        queries = self._runtime.queries
        answer = queries.get(query.topic)
        try:
            if query.topic in (MOVE, MOVED):
                self._runtime.migration.on_query(guest, query)
                guest.send(Reply(query.id, codec.encode(None)))
                return
            if answer is None:
                raise Rejected(f"this silo cannot answer {query.topic!r} (it can: {', '.join(sorted(queries))})")
            guest.send(Reply(query.id, codec.encode(await answer(query.argument))))
        except ActorError as error:
            guest.send(failure.refusal(query.id, error))
        except Exception as error:
            log.warning("%r could not be answered: %s", query.topic, error)
            guest.send(failure.refusal(query.id, ClusterUnavailable(f"{query.topic}: {error}")))

    def on_stream_control(self, origin: object, envelope: Credit | Leave) -> None:
        if type(envelope) is Leave and isinstance(origin, Guest):
            origin.over(envelope.id)
        found = self._runtime.streams.get((origin, envelope.id))
        if isinstance(found, ForwardedCall):
            envelope.id = found.request.id
            self._runtime.say(found, envelope)
            if type(envelope) is Leave:
                self._runtime.calls.close(found)
        elif found is not None:
            if type(envelope) is Credit:
                found.add_credit(envelope.amount)
            else:
                self._runtime.forget_stream(found)
                found.leave()
        elif type(envelope) is Leave:
            self._runtime.migration.left(origin, envelope.id)

    def on_closed(self, link: Link, unsent: list[Envelope]) -> None:
        """A link is gone. See ``LinkHandler``."""
        guest = self._guests.pop(link, None)
        if guest is not None:
            self._runtime.ties.closed(guest)
            guest.leave()
        self._runtime.migration.closed(link)
        not_sent = {envelope.id for envelope in unsent if type(envelope) is Request}
        for call in [call for call in self._runtime.calls if call.link is link]:
            if call.request.id in not_sent:
                self._runtime.router.hold(call)  # it certainly did not arrive, so it may go elsewhere
            elif call.repeatable and call.request.attempt < self._runtime.settings.max_attempts:
                call.request.attempt += 1  # the actor tells from its id whether it ran
                self._runtime.router.hold(call)
            else:
                self._runtime.calls.end(call, call.lost())
        self._bounced = {bounced for bounced in self._bounced if bounced[0] is not guest}
        for key, reader in [(key, reader) for key, reader in self._runtime.streams.items() if key[0] is guest]:
            del self._runtime.streams[key]
            if isinstance(reader, ForwardedCall):
                self._runtime.say(reader, Leave(reader.request.id))
                self._runtime.calls.close(reader)
            else:
                reader.leave()
