"""What clients and operators may ask of a silo about its cluster."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from actors import codec
from actors.envelope import Query, Reply
from actors.errors import Rejected
from cluster.etcd import EtcdClient
from cluster.keys import Keys
from cluster.overview import list_actors

if TYPE_CHECKING:
    from cluster.silo import Silo


class SiloQueries:
    """Answers in the name of one silo: who its members are, which actors they have, and that one is to drain.

    ``etcd``: None if it is alone.
    """

    def __init__(self, silo: "Silo", etcd: EtcdClient | None, keys: Keys) -> None:
        self._silo = silo
        self._etcd = etcd
        self._keys = keys
        self._draining: asyncio.Task[None] | None = None

    def queries(self) -> dict[str, Callable[[str], Awaitable[object]]]:
        """The topics of ``Query`` that this answers."""
        return {"members": self.members, "actors": self.actors, "drain": self.drain}

    async def members(self, _: str) -> object:
        """For clients that do not know etcd: the members as this silo sees them."""
        alone = self._etcd is None
        return msgspec.to_builtins(
            [self._silo._member(self._silo.runtime.directory.silo)] if alone else self._silo.members
        )

    async def drain(self, name: str) -> object:
        """An operator wants the silo of that name to go in good order; begin that, here or there."""
        silo = self._silo
        if name == silo.name:
            self._draining = asyncio.create_task(silo.stop())
            return name
        found = next((member for member in silo.members if member.name == name), None)
        if found is None:
            known = ", ".join(sorted({silo.name, *(member.name for member in silo.members)}))
            raise Rejected(f"there is no silo {name!r} (silos: {known})")
        runtime = silo.runtime
        link = await runtime.transport.connect(found.silo)
        answer = await runtime.question(link, Query(runtime.next_id(), "drain", name), about=name)
        return codec.decode(answer.payload, trusted=False) if isinstance(answer, Reply) else name

    async def actors(self, type_name: str) -> object:
        """The active actors of a type, or all, with the silo of each."""
        if self._etcd is not None:
            return await list_actors(self._etcd, self._keys, type_name)
        addresses = self._silo.runtime.activations
        return {
            address: self._silo.name for address in addresses if not type_name or address.startswith(f"{type_name}-")
        }
