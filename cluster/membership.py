"""Who is a member: a pure view fed with directory events, and the lease that makes this silo one.

``MembershipView`` decides nothing about time and does no I/O. ``Membership`` drives it from etcd.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from actors.errors import ClusterUnavailable
from actors.ports import Clock
from cluster.etcd import Compacted, Compare, EtcdClient, EtcdError, EtcdUnavailable, EventKind, KeepAlive, Lease, Op
from cluster.keys import Keys
from cluster.member import Member, readable

log = logging.getLogger("cluster.membership")


class NameTaken(Exception):
    """Another live silo has the name."""


class MembershipView:
    """The members as of one revision of the directory."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.revision = 0

    def on_snapshot(self, revision: int, members: dict[str, bytes]) -> bool:
        """Replace the view. Returns whether it changed."""
        before = self.members
        self.revision = revision
        self.members = {member.silo: member for member in readable(members)}
        return before != self.members

    def on_event(self, key: str, value: bytes | None, revision: int) -> bool:
        """Apply one change: a new record, or None for one that was removed. Returns whether the view changed.

        Events that are older than the view change nothing.
        """
        if revision <= self.revision:
            return False
        if value is None:
            return self.members.pop(key.rpartition("/")[2], None) is not None
        changed = False
        for member in readable({key: value}):
            changed = self.members.get(member.silo) != member
            self.members[member.silo] = member
        return changed


class Membership:
    """This silo's membership in a cluster, and its view of the others.

    ``join`` may be called again after a loss: each time it makes a new incarnation. ``on_lost`` is called once per
    incarnation, when the lease has ended or its end can no longer be excluded.
    """

    def __init__(self, etcd: EtcdClient, keys: Keys, *, clock: Clock, ttl: int, on_lost: Callable[[], None]) -> None:
        self.view = MembershipView()
        self.member: Member | None = None
        self._etcd = etcd
        self._keys = keys
        self._clock = clock
        self._ttl = ttl
        self._on_lost = on_lost
        self._keep_alive: KeepAlive | None = None
        self._lease: Lease | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = True
        self._updating = asyncio.Lock()
        self.revision = 0
        """The highest revision of etcd that this silo has seen."""
        self.on_change: Callable[[], None] = lambda: None

    @property
    def silo(self) -> str:
        """The id of this incarnation, "" while there is none."""
        return self.member.silo if self.member is not None else ""

    @property
    def deadline(self) -> float:
        """Until when this silo is certainly a member. A tenth of the TTL is kept as margin for clocks that drift."""
        if self._lost or self._keep_alive is None:
            return float("-inf")
        return self._keep_alive.deadline - self._ttl / 10

    async def changed(self) -> None:
        """Return at the next change of the view."""
        await asyncio.shield(self._changed)

    async def join(self, member: Member) -> None:
        """Become a member as the incarnation ``member.silo`` and start to watch the others.

        Waits for up to the TTL and a second if an earlier incarnation of the name is still there, and before that as
        long for the first renewal of its lease. Raises ``NameTaken`` or ``EtcdError``.
        """
        await self.stop()
        if self._lease is not None:  # of the incarnation that was lost: it would hold the name until it ends
            with contextlib.suppress(EtcdError):
                await self._etcd.revoke(self._lease.id)
            self._lease = None
        lease = await self._etcd.grant(self._ttl)
        keep_alive = self._etcd.keep_alive(lease, clock=self._clock)
        try:
            member = msgspec.structs.replace(member, lease=lease.id)
            await self._confirmed(keep_alive, silo=member.silo)
            await self._enter(member, lease)
            await self._relist()
        except BaseException:
            await keep_alive.stop()
            with contextlib.suppress(EtcdError):
                await self._etcd.revoke(lease.id)
            raise
        self.member, self._lease, self._keep_alive, self._lost = member, lease, keep_alive, False
        self._tasks = [
            asyncio.create_task(self._watch_lease(keep_alive)),
            asyncio.create_task(self._watch_members()),
        ]

    async def _confirmed(self, keep_alive: KeepAlive, *, silo: str) -> None:
        try:
            async with asyncio.timeout(self._ttl + 1):
                await keep_alive.wait_confirmed()
        except TimeoutError:
            raise EtcdUnavailable(
                f"{silo}: no renewal of its lease was confirmed within {self._ttl + 1} s, after which it ends; "
                "see whether this silo reaches etcd, and how long that takes"
            ) from None

    async def _enter(self, member: Member, lease: Lease) -> None:
        name_key = self._keys.name(member.name)
        give_up = asyncio.get_running_loop().time() + self._ttl + 1
        while True:
            result = await self._etcd.txn(
                [Compare.absent(name_key)],
                [
                    Op.put(name_key, member.silo.encode(), lease=lease.id),
                    Op.put(self._keys.silo(member.silo), member.encode(), lease=lease.id),
                ],
                [Op.get(name_key)],
            )
            if result.succeeded:
                return
            if asyncio.get_running_loop().time() > give_up:
                raise NameTaken(
                    f'a live silo of this cluster is named "{member.name}" already; give this one another --name, or '
                    "stop that one"
                )
            await asyncio.sleep(0.1)

    async def update(self, **changes: object) -> None:
        """Change fields of the own record. Raises ``EtcdError``."""
        async with self._updating:  # each begins with what the one before has made
            if self.member is None or self._lost:
                return
            member = msgspec.structs.replace(self.member, **changes)
            key = self._keys.silo(member.silo)
            result = await self._etcd.txn([Compare.exists(key)], [Op.put(key, member.encode(), lease=member.lease)])
            if result.succeeded and self.silo == member.silo:
                self.member = member

    def on_revision(self, revision: int, *, known: int) -> None:
        """Take note that etcd answered at ``revision``; ``known`` was the highest one when it was asked.

        An older answer means that etcd was restored: claims may be gone that this silo acts upon.
        """
        if revision < known:
            self.revision = revision
            self._lose(f"etcd has gone back from revision {known} to {revision}, and may have forgotten its claims")
        else:
            self.revision = max(self.revision, revision)

    async def _relist(self) -> None:
        known = self.revision
        found = await self._etcd.get(self._keys.silos, prefix=True)
        self.on_revision(found.revision, known=known)
        if self.view.on_snapshot(found.revision, {kv.key: kv.value for kv in found.kvs}):
            self._notify()

    async def _watch_members(self) -> None:
        while True:
            try:
                async for batch in self._etcd.watch(
                    self._keys.silos, prefix=True, start_revision=self.view.revision + 1
                ):
                    changed = False
                    for event in batch.events:
                        value = event.kv.value if event.kind is EventKind.PUT else None
                        changed |= self.view.on_event(event.kv.key, value, event.kv.mod_revision)
                    self.view.revision = max(self.view.revision, batch.revision)
                    self.revision = max(self.revision, batch.revision)
                    if changed:
                        self._notify()
                    if not self._check_own_record():
                        return
            except Compacted:
                log.info("the watched revision was compacted; listing the members again")
            except EtcdError as error:
                log.warning("the members cannot be watched: %s", error)
            await self._relist_until_it_works()
            if not self._check_own_record():
                return

    def _check_own_record(self) -> bool:
        if self.silo not in self.view.members:
            self._lose("its record is gone from the directory")
        return not self._lost

    async def _relist_until_it_works(self) -> None:
        while True:
            try:
                await self._relist()
                return
            except EtcdError:
                await asyncio.sleep(0.2)

    async def _watch_lease(self, keep_alive: KeepAlive) -> None:
        """Notice the end of the lease: by etcd's word, or by the own clock."""
        while not self._lost:
            left = self.deadline - self._clock.now()
            if left <= 0:
                self._lose("its lease could not be renewed in time")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await keep_alive.lost.wait()
                    self._lose("its lease is gone")
                    return

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            log.warning("%s is no longer a member: %s", self.silo, why)
            self._notify()
            self._on_lost()

    def _notify(self) -> None:
        done, self._changed = self._changed, asyncio.get_running_loop().create_future()
        done.set_result(None)
        self.on_change()

    async def stop(self) -> None:
        """Stop renewing and watching. The lease ends by itself."""
        self._lost = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._keep_alive is not None:
            await self._keep_alive.stop()
            self._keep_alive = None

    async def leave(self) -> None:
        """End the membership now: the others see it at once."""
        lease = self._lease
        await self.stop()
        if lease is not None:
            self._lease = None
            try:
                await self._etcd.revoke(lease.id)
            except EtcdError as error:
                log.warning("the lease could not be revoked and will run out: %s", error)


def unavailable(address: str, error: Exception) -> ClusterUnavailable:
    """The refusal of a call because etcd did not answer."""
    return ClusterUnavailable(f"{address}: the directory cannot be reached: {error}")
