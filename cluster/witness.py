"""How a silo finds out about another one: over connections of its own, by asking a third, and in etcd."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from actors import codec
from actors.envelope import Query, Reply
from actors.runtime import Runtime
from cluster.etcd import EtcdClient, LeaseNotFound
from cluster.member import Member
from cluster.membership import Membership
from cluster.suspicion import Finding
from cluster.transport import GrpcTransport
from cluster.transport.refusal import WrongSilo


class SiloWitness:
    """The eyes and hands of ``Suspicion`` in a silo; see ``cluster.suspicion.Witness``."""

    def __init__(
        self,
        membership: Membership,
        etcd: EtcdClient,
        runtime: Runtime,
        transport: Callable[[], GrpcTransport | None],
    ) -> None:
        self._membership = membership
        self._etcd = etcd
        self._runtime = runtime
        self._transport = transport

    def members(self) -> Mapping[str, Member]:
        """See ``Witness``."""
        return self._membership.view.members

    def silo(self) -> str:
        """See ``Witness``."""
        return self._membership.silo

    async def probe(self, suspect: Member) -> Finding:
        """See ``Witness``."""
        transport = self._transport()
        if transport is None:
            return Finding.UNKNOWN
        try:
            await transport.probe(suspect.silo, suspect.endpoint)
        except (ConnectionRefusedError, WrongSilo):
            return Finding.DEAD
        except Exception:  # no answer in time, or none that says anything
            return Finding.UNKNOWN
        return Finding.ALIVE

    async def ask(self, other: str, suspect: str) -> Finding:
        """See ``Witness``."""
        link = await self._runtime.transport.connect(other)
        query = Query(self._runtime.next_id(), "probe", suspect)
        answer = await self._runtime.question(link, query, about=suspect)
        return Finding(codec.decode(answer.payload, trusted=False)) if isinstance(answer, Reply) else Finding.UNKNOWN

    async def tell(self, suspect: str) -> str:
        """What another silo is told that asks for a second opinion."""
        member = self.members().get(suspect)
        return (Finding.DEAD if member is None else await self.probe(member)).value

    async def revoke(self, suspect: Member) -> None:
        """See ``Witness``."""
        with suppress(LeaseNotFound):  # another silo was faster
            await self._etcd.revoke(suspect.lease)
