"""Moving activations from silo to silo, with what they have in memory.

The silo that has it offers the activation's luggage to another one ("move"), which keeps it. Then the entry of the
directory is handed over, and the first silo says so ("moved"): only then does the second one activate the address,
under the epoch of that entry. Whoever asks it for the address in between waits for that word. So nobody can have owned
the address between the two, and luggage is never older than the state that it is put beside.

The messages that wait go ahead of that word, on the same link, and are let in first: however slow the link is, nobody
who goes another way overtakes them.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from actors import codec
from actors.envelope import Mode, Query, Request
from actors.errors import ActorError, ClusterUnavailable, Rejected
from actors.ports import Route

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.guest import Guest
    from actors.ports import Link
    from actors.runtime import Runtime

log = logging.getLogger("actors")

MOVE: Final = "move"
MOVED: Final = "moved"

AT_A_TIME: Final = 64
"""How many activations one silo hands over at a time: what they carry is in memory twice."""
TRIES: Final = 3


class Arrival(NamedTuple):
    """An activation that has moved here."""

    epoch: int
    luggage: bytes
    guest: "Guest"
    messages: list[Request]
    """What waited for it where it was, in order."""


class _Expected:
    """What was offered, and is not yet said to be handed over. ``epoch``: of the entry, or 0 if it is not."""

    __slots__ = ("epoch", "guest", "incarnation", "luggage", "messages", "patience")

    def __init__(self, luggage: bytes, guest: "Guest", incarnation: str, epoch: "asyncio.Future[int]") -> None:
        self.luggage = luggage
        self.guest = guest
        self.incarnation = incarnation
        self.epoch = epoch
        self.messages: list[Request] = []
        self.patience: asyncio.TimerHandle | None = None


class Migration:
    """The two sides of a move, of one silo."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._gate = asyncio.Semaphore(AT_A_TIME)
        self._expected: dict[str, _Expected] = {}
        self.sent = 0
        """How many activations have moved away."""
        self.arrived = 0
        """How many have moved here."""

    # -- the silo that has it ---------------------------------------------------------------------------------------

    def target(self, address: str, to: str | None = None) -> str:
        """The silo to move to: the one named ``to``, or one that placement chooses.

        Raises ``ValueError`` if there is no silo of that name that could host it, ``ClusterUnavailable`` without any.
        """
        directory = self._runtime.directory
        if to is None:
            return directory.place(address, but=[directory.silo])
        hosts = [silo for silo in directory.members(address.partition("-")[0]) if silo != directory.silo]
        found = next((silo for silo in hosts if to in (silo, _name(silo))), None)
        if found is None:
            names = ", ".join(map(_name, hosts)) or "none"
            raise ValueError(f"{address}: it cannot move to {to!r} (silos that take it: {names})")
        return found

    async def send_away(
        self, activation: "Activation", luggage: bytes, target: str, *, follow: "Callable[[Route, Link], None]"
    ) -> bool:
        """Hand over an activation that has ended, but for its entry. Whether another silo owns the address now.

        ``follow`` sends after it what waits for it, before the other silo lets anything else in.
        """
        runtime, address = self._runtime, activation.address
        tried = [runtime.directory.silo]
        async with self._gate:
            for _ in range(TRIES):
                if activation.gone or not runtime.may_act():
                    return False
                try:
                    target = target or runtime.directory.place(address, but=tried)
                except ActorError:
                    return False
                try:
                    await self._hand_over(activation, luggage, target, follow)
                except (ActorError, ConnectionError) as error:
                    level = logging.WARNING if luggage else logging.INFO  # what is in memory may be lost
                    log.log(level, "%s: it could not be moved to %s: %s", address, target, error)
                else:
                    self.sent += 1
                    return True
                tried.append(target)
                target = ""
        return False

    async def _hand_over(
        self, activation: "Activation", luggage: bytes, target: str, follow: "Callable[[Route, Link], None]"
    ) -> None:
        runtime, address = self._runtime, activation.address
        link = await runtime.transport.connect(target)
        await runtime.question(link, Query(runtime.next_id(), MOVE, address, luggage), about=address)
        epoch = None
        try:
            epoch = await runtime.directory.transfer(address, activation.epoch, target)
            if epoch is not None:
                follow(Route(target, epoch), link)
        finally:
            said = Query(runtime.next_id(), MOVED, address, codec.encode(epoch or 0))
            link.send(said)  # nobody waits for the answer: should it get lost, the entry says whose the address is
        if epoch is None:
            raise ClusterUnavailable(f"{address}: the directory did not hand it over")

    # -- the silo that gets it --------------------------------------------------------------------------------------

    def on_query(self, guest: "Guest", query: Query) -> None:
        """Another silo moves an activation here. Raises ``Rejected``, ``ClusterUnavailable``."""
        if not (guest.peer_is_silo and guest.trusted):
            raise Rejected(f"{query.argument}: only silos of the cluster move activations")
        if query.topic == MOVE:
            self._offered(guest, query.argument, query.payload)
        else:
            self._decided(guest, query.argument, codec.decode(query.payload, trusted=False))

    def _offered(self, guest: "Guest", address: str, luggage: bytes) -> None:
        runtime = self._runtime
        here = runtime.directory.silo
        if address.partition("-")[0] not in runtime.types:
            raise Rejected(f"{address}: {here} does not host its type")
        if runtime.draining or runtime.closed or not runtime.may_act():
            raise ClusterUnavailable(f"{address}: {here} takes no activations now")
        if address in runtime.activations:
            raise Rejected(f"{address}: it lives on {here} already")
        self._forget(address)
        expected = _Expected(luggage, guest, here, runtime.loop.create_future())
        self._expected[address] = expected
        patience = runtime.settings.activation_timeout
        expected.patience = runtime.loop.call_later(patience, self._give_up, address, expected)

    def _decided(self, guest: "Guest", address: str, epoch: int) -> None:
        expected = self._expected.get(address)
        if expected is None or expected.guest is not guest or expected.epoch.done():
            if epoch:
                log.warning("%s: it was moved here too late; what it had in memory is lost", address)
            raise Rejected(f"{address}: nothing is expected from {guest.peer}")
        if epoch:
            expected.epoch.set_result(epoch)
            self._runtime.spawn(self._welcome(address))
        else:
            self._forget(address)

    async def _welcome(self, address: str) -> None:
        try:
            await self._runtime.claims.own(address)
        except ActorError as error:
            log.warning("%s: it was moved here and could not be activated: %s", address, error)

    def expects(self, address: str) -> bool:
        """Whether the address may be about to arrive."""
        return address in self._expected

    def keep(self, guest: "Guest", request: Request) -> bool:
        """Keep a message that has come ahead of the activation that it waits for; False if that is not expected."""
        expected = self._expected.get(request.address)
        if expected is None or expected.guest is not guest:
            return False
        expected.messages.append(request)
        return True

    def left(self, guest: object, request_id: int) -> None:
        """Nobody reads the stream any more: it need not begin, if it is kept here."""
        for expected in self._expected.values():
            if expected.guest is guest:
                kept = expected.messages
                kept[:] = [one for one in kept if one.mode is not Mode.STREAM or one.id != request_id]

    async def arrival(self, address: str) -> Arrival | None:
        """What has arrived for the address, which is thereby taken; waits for what is still on its way."""
        expected = self._expected.get(address)
        if expected is None:
            return None
        epoch = await asyncio.shield(expected.epoch)
        if self._expected.get(address) is not expected:
            return None
        self._take(address)
        if not epoch or expected.incarnation != self._runtime.directory.silo:
            self.send_back(expected)
            return None
        self.arrived += 1
        return Arrival(epoch, expected.luggage, expected.guest, expected.messages)

    def closed(self, link: "Link") -> None:
        """A silo will not say any more what became of what it offered."""
        for address, expected in list(self._expected.items()):
            if expected.guest.link is link and not expected.epoch.done():
                self._forget(address)

    def _give_up(self, address: str, expected: _Expected) -> None:
        if self._expected.get(address) is expected:
            self._forget(address)

    def _take(self, address: str) -> _Expected | None:
        expected = self._expected.pop(address, None)
        if expected is not None and expected.patience is not None:
            expected.patience.cancel()  # it would keep the luggage until then
        return expected

    def _forget(self, address: str) -> None:
        expected = self._take(address)
        if expected is not None:
            self.send_back(expected)
            if not expected.epoch.done():
                expected.epoch.set_result(0)

    def send_back(self, moved: Arrival | _Expected) -> None:
        """What came with the activation looks for the address again: it is not here."""
        for request in moved.messages:
            self._runtime.inbound.turn_away(request, moved.guest)


def _name(silo: str) -> str:
    return silo.rpartition(".")[0]
