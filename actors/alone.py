"""A directory and a transport for a runtime that has no others: one process, no network."""

import asyncio
import itertools
from collections.abc import Collection, Sequence

from actors.address import listed
from actors.errors import ClusterUnavailable, UnknownActorType
from actors.ports import Fenced, Link, Route


class LonelyDirectory:
    """The directory of a single silo. Its epochs start above ``era``, which must rise with every start on one store."""

    def __init__(self, types: Sequence[str], *, era: int, name: str = "local") -> None:
        self._types = sorted(types)
        self._silo = name
        self._epochs = itertools.count((era << 40) + 1)
        self._never = asyncio.Event()
        self.open = True

    @property
    def silo(self) -> str:
        """The own id."""
        return self._silo

    @property
    def deadline(self) -> float:
        """No one else can take over: there is no deadline."""
        return float("inf")

    def types(self) -> Sequence[str]:
        """The types hosted here."""
        return self._types

    def place(self, address: str, but: Collection[str] = ()) -> str:
        """Everything lives here."""
        type_name = address.partition("-")[0]
        if type_name not in self._types:
            known = listed(self._types)
            raise UnknownActorType(f"{address}: no silo hosts the type {type_name!r} (known types: {known})")
        if self._silo in but:
            raise ClusterUnavailable(f"{address}: there is no other silo")
        if not self.open:
            raise ClusterUnavailable(f"{address}: {self._silo} is shutting down")
        return self._silo

    def is_member(self, silo: str) -> bool:
        """Whether it is this one."""
        return silo == self._silo

    def members(self, type_name: str = "") -> Sequence[str]:
        """This one."""
        return [self._silo] if not type_name or (type_name in self._types and self.open) else []

    def newer(self, type_name: str) -> Sequence[str]:
        """There are no others."""
        return []

    async def changed(self) -> None:
        """Membership never changes."""
        await self._never.wait()

    async def claim(self, address: str) -> Route:
        """Give out the next epoch."""
        return Route(self._silo, next(self._epochs))

    async def release(self, address: str, epoch: int) -> None:
        """There is no entry to remove."""

    async def transfer(self, address: str, epoch: int, silo: str) -> int | None:
        """There is nobody else."""
        return None

    async def outrun(self, address: str, stored: int) -> int:
        """Another process has used the store since: this one has lost it."""
        raise Fenced(address, epoch=0, stored=stored)


class NoTransport:
    """The transport of a runtime that talks to nobody."""

    def link(self, silo: str) -> Link | None:
        """There are no links."""
        return None

    async def connect(self, silo: str) -> Link:
        """Always fails."""
        raise ConnectionError(f"{silo} cannot be reached: this runtime has no transport")
