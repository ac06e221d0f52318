"""The address -> owner table in etcd: fenced claims, taken together in groups.

An entry holds its owner's silo id and hangs on no lease. It belongs to its owner for as long as the owner's own
record exists; after that anyone may take it over. The revision of the write, below the directory's era, is the epoch.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from actors.errors import ClusterUnavailable
from actors.ports import Fenced, Route, Store
from cluster.etcd import Compare, EtcdClient, EtcdError, KeyValue, Op, RangeResult, TxnResult
from cluster.formats import ETCD
from cluster.keys import Keys
from cluster.member import hosts
from cluster.membership import Membership, unavailable
from cluster.placement import Placement, newer

log = logging.getLogger("cluster.directory")

GROUP = 100  # etcd allows 128 operations in a transaction, with what is nested in them
FLIGHTS = 4  # groups under way at a time: etcd merges their log writes

ERA_BITS = 40  # revisions below an era: at 10,000 writes a second enough for 3 years, and restores start a new era


class StoreMismatch(Exception):
    """This silo's store is not the cluster's."""


class NewerFormat(Exception):
    """A newer release has written what the cluster has in etcd, in a format that this one does not know."""


class _Write(NamedTuple):
    key: str
    op: Op
    done: "asyncio.Future[TxnResult]"


class EtcdDirectory:
    """The ``Directory`` port over etcd."""

    def __init__(
        self, etcd: EtcdClient, keys: Keys, membership: Membership, *, store: Store, placement: Placement
    ) -> None:
        self._etcd = etcd
        self._keys = keys
        self._membership = membership
        self._store = store
        self._placement = placement
        self._era = 0
        self._queue: deque[_Write] = deque()
        self._busy_keys: set[str] = set()
        self._flights: set[asyncio.Task[bool]] = set()
        self.groups = 0
        self.writes = 0

    # -- the port ---------------------------------------------------------------------------------------------------

    @property
    def silo(self) -> str:
        """The id of the current incarnation."""
        return self._membership.silo

    @property
    def deadline(self) -> float:
        """See ``Membership.deadline``."""
        return self._membership.deadline

    def types(self) -> Sequence[str]:
        """The types of all members."""
        return sorted({name for member in self._membership.view.members.values() for name in member.types})

    def place(self, address: str, but: Collection[str] = ()) -> str:
        """See ``Placement.choose``."""
        return self._placement.choose(address, self._membership.view.members, but)

    def is_member(self, silo: str) -> bool:
        """Whether its record was there when last heard of."""
        return silo in self._membership.view.members

    def members(self, type_name: str = "") -> Sequence[str]:
        """Those whose record was there when last heard of."""
        return hosts(self._membership.view.members, type_name)

    def newer(self, type_name: str) -> Sequence[str]:
        """See ``cluster.placement.newer``."""
        return newer(self.silo, type_name, self._membership.view.members)

    async def changed(self) -> None:
        """See ``Membership.changed``."""
        await self._membership.changed()

    async def claim(self, address: str) -> Route:
        """Own the address, unless a live silo does."""
        key, silo = self._keys.actor(address), self.silo
        own_record = Compare.exists(self._keys.silo(silo))
        put = Op.put(key, silo.encode())
        found: KeyValue | None = None
        for _ in range(8):  # each turn but the last means that somebody else claimed or released just now
            if found is None:
                unowned = [Compare.absent(key)]
            else:
                unowned = [Compare.mod_revision(key, found.mod_revision)]
                owner = found.value.decode()
                if owner != silo:
                    if self.is_member(owner):
                        return self._route(found)
                    unowned.append(Compare.absent(self._keys.silo(owner)))
            result = await self._write(address, key, Op.txn([*unowned, own_record], [put], [Op.get(key)]))
            if result.succeeded:
                return Route(silo, self._epoch(result.revision))
            seen = _only_entry(result)
            if seen is None and found is None:
                raise ClusterUnavailable(f"{address}: {silo} is not a member any more")
            if seen is not None and found is not None and seen.mod_revision == found.mod_revision:
                if seen.value == silo.encode():
                    raise ClusterUnavailable(f"{address}: {silo} is not a member any more")
                return self._route(seen)  # its owner is alive, though not in this silo's view yet
            found = seen
        raise ClusterUnavailable(f"{address}: its owner changes too often to be found")

    async def release(self, address: str, epoch: int) -> None:
        """Remove the own entry of that epoch."""
        key = self._keys.actor(address)
        await self._write(address, key, Op.txn(self._own_entry(key, epoch), [Op.delete(key)], []))

    async def transfer(self, address: str, epoch: int, silo: str) -> int | None:
        """Write the other member into the own entry of that epoch."""
        key = self._keys.actor(address)
        conditions = [
            *self._own_entry(key, epoch),
            *(Compare.exists(self._keys.silo(member)) for member in (self.silo, silo)),
        ]
        result = await self._write(address, key, Op.txn(conditions, [Op.put(key, silo.encode())], []))
        return self._epoch(result.revision) if result.succeeded else None

    def _own_entry(self, key: str, epoch: int) -> list[Compare]:
        revision = epoch & ((1 << ERA_BITS) - 1)
        # The value, too: an etcd that lost its past counts its revisions anew.
        return [Compare.mod_revision(key, revision), Compare.value(key, self.silo.encode())]

    async def outrun(self, address: str, stored: int) -> int:
        """Find or make an era in which the verified claim is the highest epoch. See the port."""
        try:
            entry = await self._etcd.get(self._keys.actor(address))
            if not entry.kvs or entry.kvs[0].value.decode() != self.silo:
                raise Fenced(address, epoch=0, stored=stored)
            revision = entry.kvs[0].mod_revision
            await self._enter_era(atleast=0)
            if (self._era << ERA_BITS | revision) <= stored:
                log.warning(
                    "%s: the store has seen epoch %d: etcd has lost its past, a new era begins", address, stored
                )
                await self._enter_era(atleast=(stored >> ERA_BITS) + 1)
        except EtcdError as error:
            raise unavailable(address, error) from error
        return self._era << ERA_BITS | revision

    # -- joining ----------------------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Make sure that this silo's store is the cluster's, and that epochs rise above all it has seen.

        Raises ``NewerFormat``, ``StoreMismatch`` or ``EtcdError``.
        """
        await self._check_format()
        own = self._store.id.encode()
        result = await self._etcd.txn(
            [Compare.absent(self._keys.store)], [Op.put(self._keys.store, own)], [Op.get(self._keys.store)]
        )
        entry = None if result.succeeded else _only_entry(result)
        if entry is not None and entry.value != own:
            raise StoreMismatch(
                f"the store of this silo ({self._store.id}) is not the one that the cluster uses "
                f"({entry.value.decode()}): all silos must share one store "
                "(a SQLite file serves one host, memory: one process)"
            )
        await self._enter_era(atleast=await self._store.raise_era(0))

    async def _check_format(self) -> None:
        key = self._keys.format
        result = await self._etcd.txn([Compare.absent(key)], [Op.put(key, b"%d" % ETCD)], [Op.get(key)])
        entry = None if result.succeeded else _only_entry(result)
        if entry is not None and int(entry.value) > ETCD:
            raise NewerFormat(
                f"{self._keys.root} in etcd was written by a newer release (format {entry.value.decode()}, this "
                f"release knows {ETCD}); nothing was changed. Upgrade this silo, or give it another --cluster"
            )

    async def _enter_era(self, *, atleast: int) -> None:
        """Take over the directory's era, raising it first if it is lower. An era that etcd forgot is passed by."""
        while True:
            found = await self._etcd.get(self._keys.era)
            if found.kvs and int(found.kvs[0].value) >= atleast:
                self._era = int(found.kvs[0].value)
                break
            era = atleast if found.kvs else atleast + 1
            unchanged = (
                Compare.mod_revision(self._keys.era, found.kvs[0].mod_revision)
                if found.kvs
                else Compare.absent(self._keys.era)
            )
            await self._etcd.txn([unchanged], [Op.put(self._keys.era, str(era).encode())])
        await self._store.raise_era(self._era)

    # -- group commit -----------------------------------------------------------------------------------------------

    async def _write(self, address: str, key: str, op: Op) -> TxnResult:
        done: asyncio.Future[TxnResult] = asyncio.get_running_loop().create_future()
        self._queue.append(_Write(key, op, done))
        self._fly()
        try:
            return await done
        except EtcdError as error:
            raise unavailable(address, error) from error

    def _fly(self) -> None:
        if self._queue and len(self._flights) < FLIGHTS:
            flight = asyncio.create_task(self._flight())
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: "asyncio.Task[bool]") -> None:
        self._flights.discard(flight)
        if not flight.cancelled() and flight.result():  # else what waits is waiting for keys of another flight
            self._fly()

    async def _flight(self) -> bool:
        """Write what waits, together. Returns False if everything that waits is for keys that are being written."""
        group: list[_Write] = []
        waiting: list[_Write] = []
        while self._queue and len(group) < GROUP:
            write = self._queue.popleft()
            if write.key in self._busy_keys:
                waiting.append(write)  # etcd refuses two writes of a key in one transaction
            else:
                self._busy_keys.add(write.key)
                group.append(write)
        self._queue.extendleft(reversed(waiting))
        if not group:
            return False
        self.groups += 1
        self.writes += len(group)
        known = self._membership.revision
        try:
            result = await self._etcd.txn([], [write.op for write in group])
        except EtcdError as error:
            for write in group:
                if not write.done.done():
                    write.done.set_exception(error)
        else:
            self._membership.on_revision(result.revision, known=known)
            for write, response in zip(group, result.responses, strict=True):
                assert isinstance(response, TxnResult)
                if not write.done.done():
                    write.done.set_result(response)
        finally:
            self._busy_keys.difference_update(write.key for write in group)
        return True

    def _epoch(self, revision: int) -> int:
        return self._era << ERA_BITS | revision

    def _route(self, entry: KeyValue) -> Route:
        return Route(entry.value.decode(), self._epoch(entry.mod_revision))


def _only_entry(result: TxnResult) -> KeyValue | None:
    response = result.responses[0]
    assert isinstance(response, RangeResult)
    return response.kvs[0] if response.kvs else None
