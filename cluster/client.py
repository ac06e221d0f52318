"""A client: calls actors from a process that hosts none."""

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Sequence
from contextvars import Token
from types import TracebackType
from typing import Self

import msgspec

from actors import codec
from actors.envelope import Query, Reply
from actors.errors import ActorError, ClusterUnavailable
from actors.ports import Link, Route
from actors.ref import Caller, close_caller, current_caller, open_caller
from actors.runtime import Runtime
from actors.settings import Settings
from cluster.clock import SystemClock
from cluster.etcd import EtcdClient, EtcdError, Tls
from cluster.first_link import first_link
from cluster.keys import Keys
from cluster.member import Member
from cluster.overview import list_actors, list_members
from cluster.store import MemoryStore
from cluster.transport import Credentials, GrpcTransport

_GATEWAY = "gateway"
_KEEPALIVE = 2.0
"""Seconds, see ``GrpcTransport``: a silo that falls silent is given up before its lease has ended, by default."""
_LOOK_AROUND_EVERY = 5.0
"""Seconds."""


class _ClientDirectory:
    """Every address is reached through the silo that the client is connected to."""

    def __init__(self, name: str) -> None:
        self.silo = name
        self.deadline = float("inf")
        self._never = asyncio.Event()

    def types(self) -> Sequence[str]:
        return []

    def place(self, address: str, but: Collection[str] = ()) -> str:
        return _GATEWAY

    def is_member(self, silo: str) -> bool:
        return False

    def members(self, type_name: str = "") -> Sequence[str]:
        return []

    def newer(self, type_name: str) -> Sequence[str]:
        return []

    async def changed(self) -> None:
        await self._never.wait()

    async def claim(self, address: str) -> Route:
        raise ClusterUnavailable(f"{address}: a client hosts no actors")

    async def release(self, address: str, epoch: int) -> None:
        pass

    async def transfer(self, address: str, epoch: int, silo: str) -> int | None:
        return None

    async def outrun(self, address: str, stored: int) -> int:
        raise ClusterUnavailable(f"{address}: a client hosts no actors")


class _GatewayTransport:
    """One link at a time, to the first silo that answers."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._link: Link | None = None
        self._dial = asyncio.Lock()

    def link(self, silo: str) -> Link | None:
        link = self._link
        return link if link is not None and not (link.closed or link.departing) else None

    async def connect(self, silo: str) -> Link:
        async with self._dial:
            link = self.link(silo)
            if link is None:
                link = self._link = await self._client.dial()
            return link


class Client:
    """A connection to a cluster; see ``connect``."""

    def __init__(
        self,
        endpoints: str | Sequence[str] | None = None,
        *,
        etcd: str | Sequence[str] | None = None,
        cluster: str = "default",
        credentials: Credentials | None = None,
        etcd_tls: Tls | None = None,
        etcd_user: str | None = None,
        etcd_password: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        if (endpoints is None) == (etcd is None):
            raise ValueError('connect() needs silo endpoints ("host:port") or etcd="http://host:2379", not both')
        self._endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints or [])
        self._others: list[str] = []
        for endpoint in self._endpoints:
            _check_endpoint(endpoint)
        self._etcd_endpoints = [etcd] if isinstance(etcd, str) else list(etcd) if etcd is not None else None
        self._etcd_options = {"tls": etcd_tls, "user": etcd_user, "password": etcd_password}
        self._etcd: EtcdClient | None = None
        self._cluster = cluster
        self._keys = Keys(cluster)
        self._credentials = credentials or Credentials()
        self._settings = settings or Settings()
        self._runtime: Runtime | None = None
        self._transport: GrpcTransport | None = None
        self._store = MemoryStore()
        self._token: Token[Caller | None] | None = None

    async def __aenter__(self) -> Self:
        name = f"client.{secrets.token_hex(8)}"
        gateway = _GatewayTransport(self)
        self._runtime = Runtime(
            directory=_ClientDirectory(name),
            transport=gateway,
            store=self._store,
            clock=SystemClock(),
            settings=self._settings,
            hosting=False,
        )
        self._transport = GrpcTransport(
            name=name,
            cluster=self._cluster,
            handler=self._runtime.inbound,
            endpoints=lambda _: None,
            credentials=self._credentials,
            max_payload=self._settings.max_payload + 64 * 1024,
            keepalive=_KEEPALIVE,
        )
        try:
            if self._etcd_endpoints is not None:
                self._etcd = EtcdClient(self._etcd_endpoints, **self._etcd_options)  # type: ignore[arg-type]
                await self._etcd.connect()
            await gateway.connect(_GATEWAY)
            if self._etcd is None:
                self._runtime.spawn(self._look_around(gateway))
        except BaseException as error:
            await self._close()
            if isinstance(error, ConnectionError | EtcdError):
                raise ClusterUnavailable(f"cannot connect: {error}") from error
            raise
        self._token = current_caller.set(self._runtime.outbound)
        open_caller(self._runtime.outbound)
        return self

    def add_endpoint(self, endpoint: str) -> None:
        """Use one more silo when the one behind this client is lost. Raises ``ValueError``."""
        _check_endpoint(endpoint)
        self._endpoints.append(endpoint)

    async def dial(self) -> Link:
        """A link to any silo. Raises ``ConnectionError`` that says why each endpoint failed, or ``NotAuthorized``."""
        assert self._transport is not None
        nobody = f"no silo is a member of the cluster {self._cluster!r}"
        return await first_link(await self._find_endpoints(), self._transport.connect_to, nobody=nobody)

    async def _find_endpoints(self) -> list[str]:
        if self._etcd is None:
            return [*self._endpoints, *(other for other in self._others if other not in self._endpoints)]
        return [member.endpoint for member in await self.members()]

    async def _look_around(self, gateway: _GatewayTransport) -> None:
        """Know where else the cluster can be reached, for when the silo behind this client is gone."""
        while True:
            if gateway.link(_GATEWAY) is not None:
                with contextlib.suppress(ActorError, ConnectionError, msgspec.ValidationError):
                    self._others = [member.endpoint for member in await self.members() if not member.draining]
            await asyncio.sleep(_LOOK_AROUND_EVERY * (0.5 + secrets.randbits(16) / 2**16))

    async def members(self) -> list[Member]:
        """The live silos, from etcd or as the silo behind this client sees them. Raises ``ConnectionError``."""
        if self._etcd is None:
            return msgspec.convert(await self._query("members"), list[Member])
        try:
            members = await list_members(self._etcd, self._keys)
        except EtcdError as error:
            raise ConnectionError(str(error)) from error
        # Those that drain last, the others in any order: clients spread over the silos.
        return sorted(members, key=lambda member: (member.draining, secrets.randbits(16)))

    async def placements(self, type: str | None = None) -> dict[str, str]:
        """Which silo (by name) each active address lives on; of one type if given. Raises ``ConnectionError``."""
        if self._etcd is None:
            return msgspec.convert(await self._query("actors", type or ""), dict[str, str])
        try:
            return await list_actors(self._etcd, self._keys, type or "")
        except EtcdError as error:
            raise ConnectionError(str(error)) from error

    async def drain(self, name: str) -> None:
        """Let the silo of that name go in good order: its actors move to the others. Returns once it has begun.

        Raises ``Rejected`` where there is no such silo, ``ConnectionError``.
        """
        await self._query("drain", name)

    async def _query(self, topic: str, argument: str = "") -> object:
        if self._runtime is None:
            raise RuntimeError("a client can be asked inside its `async with` block only")
        link = await self._runtime.transport.connect(_GATEWAY)
        answer = await self._runtime.question(link, Query(self._runtime.next_id(), topic, argument), about=topic)
        return codec.decode(answer.payload, trusted=False) if isinstance(answer, Reply) else None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than it was entered in
                current_caller.reset(self._token)
        await self._close()

    async def _close(self) -> None:
        if self._runtime is not None:
            close_caller(self._runtime.outbound)
            await self._runtime.close()
        if self._transport is not None:
            await self._transport.close()
        if self._etcd is not None:
            await self._etcd.close()
        await self._store.close()


def connect(
    endpoints: str | Sequence[str] | None = None,
    *,
    etcd: str | Sequence[str] | None = None,
    cluster: str = "default",
    token: str | None = None,
    credentials: Credentials | None = None,
    settings: Settings | None = None,
    etcd_tls: Tls | None = None,
    etcd_user: str | None = None,
    etcd_password: str | None = None,
) -> Client:
    """A client for ``async with``: inside the block ``actor_ref`` reaches the cluster.

    Give silo endpoints (``"host:port"``, several in case one is away now) or ``etcd`` to find them there. ``token`` is
    the cluster's shared token; ``credentials`` says more (TLS). Entering raises ``ClusterUnavailable`` if no silo
    answers and ``NotAuthorized`` if the credentials are refused. When the silo behind it dies the client moves to
    another, also to one that only the dead one has named. Calls under way are asked again there; streams and calls of
    actors that are not ``persist="turn"`` get ``ConnectionLost``.
    """
    if token is not None:
        if credentials is not None:
            raise ValueError("give token or credentials, not both")
        credentials = Credentials(token=token)
    return Client(
        endpoints,
        etcd=etcd,
        cluster=cluster,
        credentials=credentials,
        settings=settings,
        etcd_tls=etcd_tls,
        etcd_user=etcd_user,
        etcd_password=etcd_password,
    )


def _check_endpoint(endpoint: str) -> None:
    host, colon, port = endpoint.rpartition(":")
    if not host or not colon or not port.isdigit() or "/" in endpoint:
        raise ValueError(f'the silo endpoint {endpoint!r} must be "host:port", as in "127.0.0.1:7400"')
