"""Claims: an address that is asked for becomes an activation of this silo, unless it lives elsewhere."""

import asyncio
from typing import TYPE_CHECKING

from actors.address import listed, parse_address
from actors.errors import ClusterUnavailable, Rejected, UnknownActorType
from actors.ports import Route

if TYPE_CHECKING:
    from actors.runtime import Runtime


class Claims:
    """Asks the directory for addresses, one question at a time for each."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self.under_way: dict[str, asyncio.Future[Route]] = {}

    async def own(self, address: str) -> Route:
        """Make sure that the address is active, here unless it lives elsewhere; return its owner.

        Raises ``UnknownActorType``, or ``ClusterUnavailable`` if the directory cannot answer.
        """
        activation = self._runtime.activations.get(address)
        if activation is not None:
            return Route(self._runtime.directory.silo, activation.epoch)
        try:
            parse_address(address)
        except ValueError as error:  # whoever asks for it made it up without a reference
            raise Rejected(str(error)) from None
        claim = self.under_way.get(address)
        if claim is not None:
            return await asyncio.shield(claim)
        claim = self.under_way[address] = self._runtime.loop.create_future()
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
            del self.under_way[address]

    async def _claim(self, address: str) -> Route:
        runtime = self._runtime
        type_name = address.partition("-")[0]
        actor_type = runtime.types.get(type_name)
        if actor_type is None:
            known = listed(runtime.directory.types())
            raise UnknownActorType(f"{address}: no silo hosts the type {type_name!r} (known types: {known})")
        if runtime.closed or (runtime.draining and not runtime.migration.expects(address)):
            raise ClusterUnavailable(f"{address}: {runtime.directory.silo} is shutting down")
        if not runtime.may_act():
            raise ClusterUnavailable(f"{address}: {runtime.directory.silo} has lost its lease")
        incarnation = runtime.directory.silo
        if not runtime.migration.expects(address):
            lives_on = await runtime.abstention.check(address)
            if lives_on is not None:
                return lives_on
        arrival = await runtime.migration.arrival(address)
        if arrival is None:
            route = await runtime.directory.claim(address)
            if route.silo == incarnation:  # perhaps because it was handed over meanwhile
                arrival = await runtime.migration.arrival(address)
        else:
            route = Route(incarnation, arrival.epoch)
        if route.silo == incarnation == runtime.directory.silo and runtime.may_act() and not runtime.closed:
            runtime.activate(address, actor_type, route.epoch, arrival)
            return route
        if arrival is not None:
            runtime.migration.send_back(arrival)
        if route.silo == incarnation:
            raise ClusterUnavailable(f"{address}: {incarnation} lost its lease")
        return route
