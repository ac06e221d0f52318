"""A directory for several silos in one process: membership and ownership as in etcd, without leases to run out."""

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from actors.errors import ClusterUnavailable
from actors.ports import Fenced, Route
from cluster.member import Member, hosts
from cluster.placement import Placement, newer


class SharedTable:
    """What etcd holds in a real cluster. One per cluster."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.owners: dict[str, Route] = {}
        self.revision = 0
        self._changed = asyncio.Event()

    def enter(self, member: Member) -> None:
        """Add a member."""
        self.members[member.silo] = member
        self._notify()

    def remove(self, silo: str) -> None:
        """End a membership: left, or declared dead. Its entries may be taken over from now on."""
        if self.members.pop(silo, None) is not None:
            self._notify()

    def drain(self, silo: str) -> None:
        """Place nothing new on a member."""
        if silo in self.members:
            self.members[silo] = msgspec.structs.replace(self.members[silo], draining=True)
            self._notify()

    def next_revision(self) -> int:
        """Count a write."""
        self.revision += 1
        return self.revision

    async def changed(self) -> None:
        """Return at the next change of membership."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class SharedDirectory:
    """One silo's side of a ``SharedTable``: the ``Directory`` port."""

    def __init__(self, table: SharedTable, silo: str, placement: Placement) -> None:
        self._table = table
        self._silo = silo
        self._placement = placement

    @property
    def silo(self) -> str:
        """The own id."""
        return self._silo

    @property
    def deadline(self) -> float:
        """No lease runs out here: a member may act until it is removed."""
        return float("inf") if self._silo in self._table.members else float("-inf")

    def types(self) -> Sequence[str]:
        """The types of all members."""
        return sorted({name for member in self._table.members.values() for name in member.types})

    def place(self, address: str, but: Collection[str] = ()) -> str:
        """See ``Placement.choose``."""
        return self._placement.choose(address, self._table.members, but)

    def is_member(self, silo: str) -> bool:
        """Whether it is there now."""
        return silo in self._table.members

    def members(self, type_name: str = "") -> Sequence[str]:
        """Those that are there now."""
        return hosts(self._table.members, type_name)

    def newer(self, type_name: str) -> Sequence[str]:
        """See ``cluster.placement.newer``."""
        return newer(self.silo, type_name, self._table.members)

    async def changed(self) -> None:
        """Return at the next change of membership."""
        await self._table.changed()

    async def claim(self, address: str) -> Route:
        """Own the address, unless a live silo does."""
        await asyncio.sleep(0)  # a real directory never answers at once
        if self._silo not in self._table.members:
            raise ClusterUnavailable(f"{address}: {self._silo} is not a member any more")
        owner = self._table.owners.get(address)
        if owner is None or owner.silo == self._silo or owner.silo not in self._table.members:
            owner = self._table.owners[address] = Route(self._silo, self._table.next_revision())
        return owner

    async def release(self, address: str, epoch: int) -> None:
        """Remove the own entry of that epoch."""
        await asyncio.sleep(0)
        if self._table.owners.get(address) == Route(self._silo, epoch):
            del self._table.owners[address]
            self._table.next_revision()

    async def transfer(self, address: str, epoch: int, silo: str) -> int | None:
        """Make another member the owner."""
        await asyncio.sleep(0)
        members = self._table.members
        if silo not in members or self._silo not in members:
            return None
        if self._table.owners.get(address) != Route(self._silo, epoch):
            return None
        self._table.owners[address] = Route(silo, self._table.next_revision())
        return self._table.revision

    async def outrun(self, address: str, stored: int) -> int:
        """The table may be younger than the store: go on above what the store has seen."""
        owner = self._table.owners.get(address)
        if owner is None or owner.silo != self._silo:
            raise Fenced(address, epoch=0, stored=stored)
        self._table.revision = max(self._table.revision, stored)
        owner = self._table.owners[address] = Route(self._silo, self._table.next_revision())
        return owner.epoch
