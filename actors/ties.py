"""``cancel_with_caller``: work that is stopped when its caller gives up, or is gone with its process."""

import logging
from typing import TYPE_CHECKING

from actors.calls import ForwardedCall
from actors.context import current_turn
from actors.envelope import Request
from actors.errors import ActorError
from actors.ref import INTERRUPT, ActorRef

if TYPE_CHECKING:
    from actors.guest import Guest
    from actors.runtime import Runtime

log = logging.getLogger("actors")


class Ties:
    """Interrupts the messages whose senders have tied them to themselves, once those are gone."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._links: set[Guest] = set()
        """Those of clients that have tied something to themselves."""

    def gave_up(self, request: Request) -> None:
        """The caller, which is code of this process, no longer waits for the request, although it could."""
        turn = current_turn.get(None)
        if turn is not None and not turn.goes_on:
            return  # it is run again elsewhere, and waits for the same answer then
        if request.cancel_with_caller and not self._runtime.closed:
            self._runtime.spawn(self._interrupt(request.address, request.message_id, "its caller gave up", -1))

    def note(self, link: "Guest", request: Request) -> None:
        """A request of a client has come."""
        if request.cancel_with_caller:
            self._links.add(link)

    def closed(self, link: "Guest") -> None:
        """A client's link is gone: unless it asks again on another one, it is too."""
        if link not in self._links:
            return
        self._links.discard(link)
        runtime = self._runtime
        requests = [call.request for call in runtime.calls if isinstance(call, ForwardedCall) and call.origin is link]
        for activation in runtime.activations.values():
            requests += [turn.request for turn in activation.unsettled() if turn.origin is link]
        for request in requests:
            if request.cancel_with_caller:
                runtime.loop.call_later(runtime.settings.reconnect_grace, self._lost, request)

    def _lost(self, request: Request) -> None:
        if not self._runtime.closed:
            work = self._interrupt(request.address, request.message_id, "its caller is gone", request.attempt)
            self._runtime.spawn(work)

    async def _interrupt(self, address: str, message_id: str, reason: str, attempt: int) -> None:
        try:
            await self._runtime.outbound.ask(ActorRef(address), INTERRUPT, (reason, message_id, attempt), {})
        except ActorError as error:
            log.warning("%s: message %s goes on, although %s: %s", address, message_id, reason, error)
