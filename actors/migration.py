"""Moving activations from silo to silo, with what they have in memory.

The silo that has it offers the activation's luggage to another one ("move"), which keeps it. Then the entry of the
directory is handed over, and the first silo says so ("moved"): only then does the second one activate the address,
under the epoch of that entry. Whoever asks it for the address in between waits for that word. So nobody can have owned
the address between the two, and luggage is never older than the state that it is put beside.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from actors import codec
from actors.envelope import Query
from actors.errors import ActorError, ClusterUnavailable, Rejected

if TYPE_CHECKING:
    from actors.activation import Activation
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


class _Expected:
    """What was offered, and is not yet said to be handed over. ``epoch``: of the entry, or 0 if it is not."""

    __slots__ = ("epoch", "incarnation", "link", "luggage")

    def __init__(self, luggage: bytes, link: "Link", incarnation: str, epoch: "asyncio.Future[int]") -> None:
        self.luggage = luggage
        self.link = link
        self.incarnation = incarnation
        self.epoch = epoch


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

    async def send_away(self, activation: "Activation", luggage: bytes, target: str) -> bool:
        """Hand over an activation that has ended, but for its entry. Whether another silo owns the address now."""
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
                    await self._hand_over(activation, luggage, target)
                except (ActorError, ConnectionError) as error:
                    log.info("%s: it could not be moved to %s: %s", address, target, error)
                else:
                    self.sent += 1
                    return True
                tried.append(target)
                target = ""
        return False

    async def _hand_over(self, activation: "Activation", luggage: bytes, target: str) -> None:
        runtime, address = self._runtime, activation.address
        link = await runtime.transport.connect(target)
        await runtime.question(link, Query(runtime.next_id(), MOVE, address, luggage), about=address)
        epoch = None
        try:
            epoch = await runtime.directory.transfer(address, activation.epoch, target)
        finally:
            said = Query(runtime.next_id(), MOVED, address, codec.encode(epoch or 0))
            link.send(said)  # nobody waits for the answer: should it get lost, the entry says whose the address is
        if epoch is None:
            raise ClusterUnavailable(f"{address}: the directory did not hand it over")

    # -- the silo that gets it --------------------------------------------------------------------------------------

    def on_query(self, link: "Link", query: Query) -> None:
        """Another silo moves an activation here. Raises ``Rejected``, ``ClusterUnavailable``."""
        if not (link.peer_is_silo and link.trusted):
            raise Rejected(f"{query.argument}: only silos of the cluster move activations")
        if query.topic == MOVE:
            self._offered(link, query.argument, query.payload)
        else:
            self._decided(link, query.argument, codec.decode(query.payload, trusted=False))

    def _offered(self, link: "Link", address: str, luggage: bytes) -> None:
        runtime = self._runtime
        here = runtime.directory.silo
        if address.partition("-")[0] not in runtime.types:
            raise Rejected(f"{address}: {here} does not host its type")
        if runtime.draining or runtime.closed or not runtime.may_act():
            raise ClusterUnavailable(f"{address}: {here} takes no activations now")
        if address in runtime.activations:
            raise Rejected(f"{address}: it lives on {here} already")
        self._forget(address)
        expected = _Expected(luggage, link, here, runtime.loop.create_future())
        self._expected[address] = expected
        runtime.loop.call_later(runtime.settings.activation_timeout, self._give_up, address, expected)

    def _decided(self, link: "Link", address: str, epoch: int) -> None:
        expected = self._expected.get(address)
        if expected is None or expected.link is not link or expected.epoch.done():
            raise Rejected(f"{address}: nothing is expected from {link.peer}")
        expected.epoch.set_result(epoch)
        if epoch:
            self._runtime.spawn(self._welcome(address))
        else:
            del self._expected[address]

    async def _welcome(self, address: str) -> None:
        try:
            await self._runtime.own(address)
        except ActorError as error:
            log.warning("%s: it was moved here and could not be activated: %s", address, error)

    def expects(self, address: str) -> bool:
        """Whether the address may be about to arrive."""
        return address in self._expected

    async def arrival(self, address: str) -> Arrival | None:
        """What has arrived for the address, which is thereby taken; waits for what is still on its way."""
        expected = self._expected.get(address)
        if expected is None:
            return None
        epoch = await asyncio.shield(expected.epoch)
        if self._expected.get(address) is not expected:
            return None
        del self._expected[address]
        if not epoch or expected.incarnation != self._runtime.directory.silo:
            return None
        self.arrived += 1
        return Arrival(epoch, expected.luggage)

    def closed(self, link: "Link") -> None:
        """A silo will not say any more what became of what it offered."""
        for address, expected in list(self._expected.items()):
            if expected.link is link and not expected.epoch.done():
                self._forget(address)

    def _give_up(self, address: str, expected: _Expected) -> None:
        if self._expected.get(address) is expected:
            self._forget(address)

    def _forget(self, address: str) -> None:
        expected = self._expected.pop(address, None)
        if expected is not None and not expected.epoch.done():
            expected.epoch.set_result(0)


def _name(silo: str) -> str:
    return silo.rpartition(".")[0]
