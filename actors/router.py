"""From an address to the silo that owns it now: warm routes, and the queues of what waits for one."""

import asyncio
import bisect
import logging
from collections.abc import Iterable
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING

from actors.calls import Call
from actors.envelope import Located, Resolve
from actors.errors import ActorError, ClusterUnavailable, MailboxFull, OutcomeUnknown
from actors.ports import Link, Route
from actors.shares import Shares

if TYPE_CHECKING:
    from actors.runtime import Runtime

log = logging.getLogger("actors")

_FIRST_DELAY, _LONGEST_DELAY = 0.02, 0.5
_by_order = attrgetter("order")


def _weight(call: Call) -> int:
    return len(call.request.payload) + 1000


class _Held:
    """Calls to one address that wait for a route, in the order in which they were made.

    ``fences``: silos that calls were sent to under an older route. Nothing is released before each of them was asked
    where the address is: its answer comes after all its NotHeres, so that no call on its way back is overtaken.
    """

    __slots__ = ("asking", "calls", "fences")

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.fences: dict[str, None] = {}  # ordered, so that a simulated run can be repeated
        self.asking = ""  # which of them is being asked now

    def awaits_others(self, own: str) -> bool:
        """Whether calls may still be on their way back from other silos than this one."""
        return self.asking not in ("", own) or any(silo != own for silo in self.fences)


class Router:
    """Sends each call to the owner of its address, keeping the order of the calls to one address.

    Without a warm route calls are held while one task finds the owner: the silo that placement chooses claims the
    address, or says who owns it. A silo that no longer owns an address answers NotHere, for this and for all later
    requests of the sender until it is asked where the address is now.
    """

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._routes: dict[str, Route] = {}
        self._held: dict[str, _Held] = {}
        self._room = Shares(runtime.settings.max_held_bytes)

    @property
    def held_bytes(self) -> int:
        """About how much waits for owners to be found."""
        return self._room.taken

    @property
    def routes(self) -> int:
        """How many routes are cached."""
        return len(self._routes)

    def dispatch(self, call: Call) -> None:
        """Send the call on its way, or hold it until there is one."""
        address = call.request.address
        if address not in self._held:
            route = self._routes.get(address)
            activation = self._runtime.activations.get(address)
            if activation is not None and self._runtime.may_act():
                if route is None:
                    call.held_for = ""
                    activation.accept(call.request, self._runtime.local)
                    return
                self.hold(call, fence=route.silo)  # the address has come here: what was sent there comes back first
                return
            if route is not None:
                link = self._runtime.transport.link(route.silo)
                if link is not None:
                    self._send(call, link)
                    return
        self.hold(call)

    def is_clear(self, address: str) -> bool:
        """Whether no earlier call of this runtime to the address can be held or on its way back."""
        return address not in self._held and address not in self._routes

    def hold(self, call: Call, *, fence: str = "") -> None:
        """Let the call wait until the owner is found; calls that were sent to the silo ``fence`` may come back."""
        address = call.request.address
        call.link = None
        self._routes.pop(address, None)
        if not self._room.has_room(call.request.caller):
            self._runtime.calls.end(call, MailboxFull(f"{address}: too much waits for owners to be found; try later"))
            return
        held = self._held.get(address)
        if held is None:
            held = self._held[address] = _Held()
            self._runtime.spawn(self._resolve(address, held))
        if fence and fence != held.asking:
            held.fences[fence] = None
        self._room.take(call.request.caller, _weight(call))
        call.held_for = call.held_for or "its owner is being looked up"
        bisect.insort(held.calls, call, key=_by_order)

    def follow(self, address: str, route: Route, calls: Iterable[Call], link: Link) -> None:
        """The address has moved away, over this link: what waited for it here goes after it, before all else."""
        self._remember(address, route)
        for call in calls:
            self._count_down(call)
            self._send(call, link)

    def _send(self, call: Call, link: Link) -> None:
        call.link = link
        call.held_for = ""
        try:
            link.send(call.request)
        except ActorError as error:
            self._runtime.calls.end(call, error)

    async def _resolve(self, address: str, held: _Held) -> None:
        runtime = self._runtime
        started = runtime.loop.time()
        delay = _FIRST_DELAY
        await self._let_things_settle(held)
        while True:
            if not self._still_wanted(held):
                self._take(address, held)
                return
            try:
                route = await self._find(address, held)
            except (ConnectionError, ClusterUnavailable, OutcomeUnknown) as error:
                reason = str(error)  # of looking it up: nothing was delivered
            except ActorError as error:
                self._refuse_all(address, held, error)
                return
            except Exception as error:  # of a port: an address must not stay unreachable for it
                log.exception("%s: its owner could not be looked up", address)
                self._refuse_all(address, held, ClusterUnavailable(f"{address}: not delivered: {error!r}"))
                return
            else:
                if self._held.get(address) is held:
                    self._release(address, held, route)
                return
            if self._held.get(address) is not held:
                return
            for call in held.calls:
                call.held_for = reason
            if runtime.loop.time() - started > runtime.settings.delivery_timeout or runtime.closed:
                self._refuse_all(address, held, ClusterUnavailable(f"{address}: not delivered: {reason}"))
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await runtime.directory.changed()
            delay = min(delay * 2, _LONGEST_DELAY)

    async def wake(self, address: str) -> None:
        """Make sure that the address is active, where it lives or else where it belongs. Raises as for ``own``."""
        runtime = self._runtime
        target = runtime.directory.place(address)
        if target == runtime.directory.silo:
            await runtime.claims.own(address)
        else:
            await self._ask(await runtime.transport.connect(target), address, wakes=True)

    async def _let_things_settle(self, held: _Held) -> None:
        """Calls that were lost more than once wait for news: a silo without its lease may be listed for a while."""
        attempts = max((call.request.attempt for call in held.calls), default=0)
        if attempts > 1:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(0.05 * 4 ** (attempts - 1), 2.0)):
                    await self._runtime.directory.changed()

    async def _find(self, address: str, held: _Held) -> Route:
        """Ask where the address lives, and make sure that there is a link to it. Raises if it cannot be reached."""
        runtime = self._runtime
        route = None
        while held.fences or route is None:
            if held.fences:
                route = await self._pass(held.fences.popitem()[0], address, held)
                continue
            target = runtime.directory.place(address)
            if target == runtime.directory.silo:
                route = await runtime.claims.own(address)
            elif runtime.hosting:
                route = await self._ask(await runtime.transport.connect(target), address)
                if route.silo == runtime.directory.silo:  # by an entry that was left: it is claimed, or given up
                    route = await runtime.claims.own(address)
            else:
                route = Route(target, 0)
            if route.silo != runtime.directory.silo:
                await runtime.transport.connect(route.silo)
        return route

    async def _pass(self, silo: str, address: str, held: _Held) -> Route | None:
        """Wait until nothing that was sent to the silo can come back; return where it thinks that the address is."""
        runtime = self._runtime
        held.asking = silo
        try:
            if silo == runtime.directory.silo:  # what was handed on stays here if it can: nothing can overtake it then
                route = await runtime.claims.own(address)
            else:
                route = await self._ask(await runtime.transport.connect(silo), address)
            if route.silo != runtime.directory.silo:
                await runtime.transport.connect(route.silo)
        except (ConnectionError, ClusterUnavailable, OutcomeUnknown):
            return None  # it is gone, and what was sent there with it; or it has no idea
        else:
            return route
        finally:
            held.asking = ""

    async def _ask(self, link: Link, address: str, *, wakes: bool = False) -> Route:
        runtime = self._runtime
        number = runtime.next_id()
        located = await runtime.question(link, Resolve(number, address, wakes), about=address)
        if not isinstance(located, Located):
            raise ClusterUnavailable(f"{address}: {link.peer} does not know where it lives")
        return Route(located.silo, located.epoch)

    def _still_wanted(self, held: _Held) -> bool:
        """Drop the calls that nobody waits for any more; whether any are left."""
        for call in [call for call in held.calls if call not in self._runtime.calls]:
            held.calls.remove(call)
            self._give_back(call)
        return bool(held.calls)

    def _take(self, address: str, held: _Held) -> list[Call]:
        """Stop holding the address's calls."""
        if self._held.get(address) is held:
            del self._held[address]
        calls, held.calls = held.calls, []
        for call in calls:
            self._give_back(call)
        return calls

    def _give_back(self, call: Call) -> None:
        self._room.give_back(call.request.caller, _weight(call))

    async def learn(self, address: str, route: Route) -> None:
        """The address was found to live elsewhere: what waits here for its owner goes there now."""
        held, own = self._held.get(address), self._runtime.directory.silo
        if held is not None and not held.awaits_others(own):
            with suppress(ConnectionError):
                await self._runtime.transport.connect(route.silo)
                if self._held.get(address) is held and not held.awaits_others(own):
                    self._release(address, held, route)

    def arrived(self, address: str) -> None:
        """The address has been activated here: deliver what waits for it."""
        held, own = self._held.get(address), self._runtime.directory.silo
        if held is not None and not held.awaits_others(own):
            self._release(address, held, Route(own, 0))

    def _release(self, address: str, held: _Held, route: Route) -> None:
        """The owner is known: remember it and send what waited."""
        runtime = self._runtime
        if route.silo != runtime.directory.silo:
            self._remember(address, route)
        for call in self._take(address, held):
            if call in runtime.calls:
                self._count_down(call)
                self.dispatch(call)

    def _remember(self, address: str, route: Route) -> None:
        if len(self._routes) >= self._runtime.settings.max_routes:
            del self._routes[next(iter(self._routes))]
        self._routes[address] = route

    def _count_down(self, call: Call) -> None:
        """Take the time that the call has waited from what it allows."""
        if call.expires != float("inf"):
            call.request.timeout = max(call.expires - self._runtime.loop.time(), 0.001)

    def _refuse_all(self, address: str, held: _Held, error: ActorError) -> None:
        for call in self._take(address, held):
            self._runtime.calls.end(call, error)
