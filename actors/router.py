"""From an address to the silo that owns it now: warm routes, and the queues of what waits for one."""

import asyncio
import bisect
import logging
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING

from actors.calls import Call, ResolveCall
from actors.envelope import Located, Mode, Request, Resolve
from actors.errors import ActorError, ClusterUnavailable, MailboxFull, OutcomeUnknown
from actors.ports import Link, Route

if TYPE_CHECKING:
    from actors.runtime import Runtime

log = logging.getLogger("actors")

_FIRST_DELAY, _LONGEST_DELAY = 0.02, 0.5
_by_order = attrgetter("order")


def _weight(call: Call) -> int:
    return len(call.request.payload) + 1000


class _Held:
    """Calls to one address that wait for a route, in the order in which they were made."""

    __slots__ = ("ask_first", "calls", "found")

    def __init__(self, ask_first: str) -> None:
        self.ask_first = ask_first
        self.calls: list[Call] = []
        self.found = asyncio.Event()


class Router:
    """Sends each call to the owner of its address, keeping the order of the calls to one address.

    Without a warm route calls are held while one task finds the owner: the silo that placement chooses claims the
    address, or says who owns it. A silo that no longer owns an address answers NotHere; it is asked first where the
    address is now, because its answer then comes after all its other NotHeres: none can be overtaken.
    """

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._routes: dict[str, Route] = {}
        self._held: dict[str, _Held] = {}
        self._held_bytes = 0

    @property
    def routes(self) -> int:
        """How many routes are cached."""
        return len(self._routes)

    def dispatch(self, call: Call) -> None:
        """Send the call on its way, or hold it until there is one."""
        address = call.request.address
        if address not in self._held:
            activation = self._runtime.activations.get(address)
            if activation is not None and self._runtime.may_act():
                call.held_for = ""
                activation.accept(call.request, self._runtime.local)
                return
            route = self._routes.get(address)
            if route is not None:
                link = self._runtime.transport.link(route.silo)
                if link is not None:
                    self._send(call, link)
                    return
        self.hold(call)

    def hold(self, call: Call, *, ask_first: str = "") -> None:
        """Let the call wait until the owner is found; ``ask_first`` has just said that it is not the owner."""
        address = call.request.address
        call.link = None
        self._routes.pop(address, None)
        if self._held_bytes > self._runtime.settings.max_held_bytes:
            self._runtime.end_call(call, MailboxFull(f"{address}: too much waits for owners to be found; try later"))
            return
        held = self._held.get(address)
        if held is None:
            held = self._held[address] = _Held(ask_first)
            self._runtime.spawn(self._resolve(address, held))
        self._held_bytes += _weight(call)
        call.held_for = call.held_for or "its owner is being looked up"
        bisect.insort(held.calls, call, key=_by_order)

    def _send(self, call: Call, link: Link) -> None:
        call.link = link
        call.held_for = ""
        try:
            link.send(call.request)
        except ActorError as error:
            self._runtime.end_call(call, error)

    async def _resolve(self, address: str, held: _Held) -> None:
        runtime = self._runtime
        started = runtime.loop.time()
        delay = _FIRST_DELAY
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

    async def _find(self, address: str, held: _Held) -> Route:
        """Ask where the address lives, and make sure that there is a link to it. Raises if it cannot be reached."""
        runtime = self._runtime
        target, held.ask_first = held.ask_first or runtime.directory.place(address), ""
        if target == runtime.directory.silo:
            route = await runtime.own(address)
        elif not runtime.hosting:
            route = Route(target, 0)
        else:
            route = await self._ask(await runtime.transport.connect(target), address)
        if route.silo != runtime.directory.silo:
            await runtime.transport.connect(route.silo)
        return route

    async def _ask(self, link: Link, address: str) -> Route:
        runtime = self._runtime
        future = runtime.loop.create_future()
        call = ResolveCall(Request(runtime.next_id(), address, "", b"", Mode.ASK, 0, ""), future)
        call.link = link
        runtime.begin_call(call, runtime.settings.activation_timeout)
        link.send(Resolve(call.request.id, address))
        located = await future
        if not isinstance(located, Located):
            raise ClusterUnavailable(f"{address}: {link.peer} does not know where it lives")
        return Route(located.silo, located.epoch)

    def _still_wanted(self, held: _Held) -> bool:
        """Drop the calls that nobody waits for any more; whether any are left."""
        for call in [call for call in held.calls if not self._runtime.is_open(call)]:
            held.calls.remove(call)
            self._held_bytes -= _weight(call)
        return bool(held.calls)

    def _take(self, address: str, held: _Held) -> list[Call]:
        """Stop holding the address's calls."""
        if self._held.get(address) is held:
            del self._held[address]
        held.found.set()
        self._held_bytes -= sum(map(_weight, held.calls))
        calls, held.calls = held.calls, []
        return calls

    async def found(self, address: str) -> None:
        """Return when nothing sent through this runtime waits for the address's owner any more."""
        held = self._held.get(address)
        if held is not None:
            await held.found.wait()

    def arrived(self, address: str) -> None:
        """The address has been activated here: deliver what waits for it."""
        held = self._held.get(address)
        if held is not None:
            self._release(address, held, Route(self._runtime.directory.silo, 0))

    def _release(self, address: str, held: _Held, route: Route) -> None:
        """The owner is known: remember it and send what waited."""
        runtime = self._runtime
        if route.silo != runtime.directory.silo:
            if len(self._routes) >= runtime.settings.max_routes:
                del self._routes[next(iter(self._routes))]
            self._routes[address] = route
        now = runtime.loop.time()
        for call in self._take(address, held):
            if runtime.is_open(call):
                if call.expires != float("inf"):
                    call.request.timeout = max(call.expires - now, 0.001)
                self.dispatch(call)

    def _refuse_all(self, address: str, held: _Held, error: ActorError) -> None:
        for call in self._take(address, held):
            self._runtime.end_call(call, error)
