"""This project: a client process calls actors in a silo process."""

import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable

from benchmarks.echo_app import Echo, Keeper
from benchmarks.load import Call
from benchmarks.peer import ACTORS, PAYLOAD, Caller, Peer, Place, Served
from cluster import Silo, connect
from cluster.directory import EtcdDirectory


class SiloPeer(Peer):
    """One silo, or several that share an etcd."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """A silo; a member of the cluster if there is an etcd, else with an embedded directory."""
        silo = Silo([Echo, Keeper], listen="127.0.0.1:0", etcd=place.etcd, store=place.store, name=place.name)
        async with silo:
            yield Served(silo.grpc, lambda: _counters(silo))

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """A client of each silo."""
        async with contextlib.AsyncExitStack() as clients:
            contexts = []
            for endpoint in place.endpoints:
                await clients.enter_async_context(connect(endpoint))
                contexts.append(contextvars.copy_context())
            yield Caller(works(), contexts)


def works() -> dict[str, Call]:
    """The calls that any runtime of this project makes, through references alone."""
    known = [Echo.ref(str(number)) for number in range(ACTORS)]

    def echo(number: int) -> Awaitable[object]:
        return known[number % ACTORS].echo(PAYLOAD)

    def echo_later(number: int) -> Awaitable[object]:
        return known[number % ACTORS].echo_later(PAYLOAD)

    def activate(number: int) -> Awaitable[object]:
        return Echo.ref(f"fresh-{number}").echo(PAYLOAD)

    def activate_keeper(number: int) -> Awaitable[object]:
        return Keeper.ref(f"fresh-{number}").echo(PAYLOAD)

    return {"echo": echo, "echo_later": echo_later, "activate": activate, "activate_keeper": activate_keeper}


def _counters(silo: Silo) -> dict[str, float]:
    directory = silo.runtime.directory
    counters: dict[str, float] = {"activations": len(silo.runtime.activations)}
    if isinstance(directory, EtcdDirectory):
        counters |= {"groups": directory.groups, "writes": directory.writes}
    return counters


PEER = SiloPeer()
