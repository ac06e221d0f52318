"""What makes a silo a member of a cluster: its ties to etcd."""

import asyncio
import logging
from typing import TYPE_CHECKING

from actors.ports import Clock, Store, StoreUnavailable
from cluster.directory import EtcdDirectory
from cluster.etcd import EtcdClient, EtcdError
from cluster.keys import Keys
from cluster.membership import Membership, NameTaken
from cluster.placement import Placement
from cluster.sweep import sweep_later

if TYPE_CHECKING:
    from cluster.silo import Silo

log = logging.getLogger("cluster.silo")

_PAUSE = 0.5


class EtcdSide:
    """Lets one silo enter its cluster, see the others come and go, and enter anew when its lease was lost."""

    def __init__(
        self,
        silo: "Silo",
        client: EtcdClient,
        keys: Keys,
        *,
        store: Store,
        placement: Placement,
        clock: Clock,
        ttl: int,
    ) -> None:
        self._silo = silo
        self._keys = keys
        self._placement = placement
        self._loads: dict[str, int] = {}
        self.client = client
        self.membership = Membership(client, keys, clock=clock, ttl=ttl, on_lost=self._on_lost)
        self.membership.on_change = self._on_members
        self.directory = EtcdDirectory(client, keys, self.membership, store=store, placement=placement)

    async def enter(self) -> None:
        """Become a member as a new incarnation: new id, new links, new lease."""
        silo = self._silo._new_id()
        await self.directory.adopt()
        transport = await self._silo._open_transport(silo, welcome=False)  # clients would wait here, others may answer
        self._placement.silo = silo
        await self.membership.join(self._silo._member(silo))
        transport.welcome()

    def _on_members(self) -> None:
        """Members came, went or reported their load."""
        silo, transport, members = self._silo, self._silo._transport, self.membership.view.members
        for other, member in members.items():
            if self._loads.get(other) != member.load:
                self._placement.on_load(other)
        gone = self._loads.keys() - members.keys()
        if gone and members and min(members) == silo.runtime.directory.silo:
            silo._spawn(sweep_later(self.client, self._keys, lambda: self.membership.view.members))
        self._loads = {other: member.load for other, member in members.items()}
        if gone and transport is not None:
            for other in gone:  # its lease has ended: whatever it may still say counts for nothing
                transport.give_up(other, f"{other} is no longer a member")

    def _on_lost(self) -> None:
        self._silo.runtime.stop_acting()
        if not self._silo._stopping:
            self._silo._spawn(self._rejoin())

    async def _rejoin(self) -> None:
        silo = self._silo
        if silo._transport is not None:
            await silo._transport.close()
        while not silo._stopping:
            try:
                await self.enter()
            except (EtcdError, StoreUnavailable, OSError, NameTaken) as error:
                log.warning("%s cannot rejoin yet: %s", silo.name, error)
                await asyncio.sleep(_PAUSE)
            except Exception:
                log.exception("%s cannot rejoin", silo.name)
                await asyncio.sleep(_PAUSE)
            else:
                log.warning("%s has rejoined as %s", silo.name, self.membership.silo)
                return
