"""A silo: the composition of runtime, transport, directory and store into one member of a cluster."""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, Self

from actors.actor import Actor
from actors.alone import LonelyDirectory, NoTransport
from actors.code_version import check as check_version
from actors.ports import Directory, Store
from actors.ref import Caller, close_caller, current_caller, open_caller
from actors.release import RELEASE
from actors.runtime import Runtime
from actors.settings import Settings
from actors.watchdog import BLOCKED, LoopWatch
from cluster.clock import SystemClock
from cluster.etcd import EtcdError, Tls
from cluster.etcd_side import EtcdSide
from cluster.formats import FORMATS
from cluster.gateway import BUILTIN, GatewayOptions, check_types
from cluster.gateway.health import Condition
from cluster.http_side import HttpSide
from cluster.inspection.inspector import open_inspection
from cluster.keys import Keys
from cluster.listen_address import advertised, check_listen
from cluster.load_report import LoadReport
from cluster.member import Member
from cluster.neighbour import watch_neighbour
from cluster.placement import Placement
from cluster.reaching_etcd import reach_etcd
from cluster.rebalancing import Rebalancer
from cluster.silo_queries import SiloQueries
from cluster.store import open_store
from cluster.suspicion import Suspicion
from cluster.transport import Credentials, GrpcTransport
from cluster.witness import SiloWitness

log = logging.getLogger("cluster.silo")

STORE_LIMIT = 15.0  # seconds for a store to finish what was begun
ANNOUNCE_LIMIT = 0.5  # what is left of the lease when etcd does not answer is for storing


class Silo:
    """One node: hosts actors, and routes calls to wherever in the cluster they live.

    ``etcd``: endpoints of the cluster's directory; None makes a silo of its own, with an embedded directory.
    ``store``: ``memory:``, ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; all silos of a cluster share one.
    ``listen``: ``host:port`` for other silos and clients, port 0 picks a free one; ``advertise``: how they reach it, if
    that differs. ``http``: ``host:port`` for health checks and the gateway, None for none; ``gateway``: its settings,
    by default those of the environment. ``rebalance``: whether idle actors may move to silos that have far fewer.
    ``lease_ttl``: seconds after which a silent silo's actors may be taken over.
    ``version``: of the actors' code; it rises with each change of that, see docs/upgrading.md.

    As a context manager it starts, makes ``actor_ref`` work in the block, and stops.
    """

    def __init__(
        self,
        actors: Iterable[type[Actor]] = (),
        *,
        etcd: str | Sequence[str] | None = None,
        store: str = "memory:",
        listen: str = "127.0.0.1:0",
        advertise: str | None = None,
        http: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        cluster: str = "default",
        version: str = "",
        credentials: Credentials | None = None,
        insecure: bool = False,
        etcd_tls: Tls | None = None,
        etcd_user: str | None = None,
        etcd_password: str | None = None,
        etcd_timeout: float = 30.0,
        lease_ttl: int = 4,
        drain_limit: float = 10.0,
        rebalance: bool = True,
        settings: Settings | None = None,
        gateway: GatewayOptions | None = None,
    ) -> None:
        for option, address in (("listen", listen), ("http", http)):
            check_listen(option, address)
        self.actors = list(actors)
        check_types(self.actors)
        self._hosted = [*self.actors, *(actor for actor in BUILTIN if actor not in self.actors)]
        gateway_options = gateway or GatewayOptions.from_environment()
        if http is None and gateway_options.pages is not None:
            raise ValueError(f"the pages in {gateway_options.pages} are served over HTTP: add --http HOST:PORT")
        self.name = name or f"{socket.gethostname().partition('.')[0]}-{secrets.token_hex(2)}"
        if not self.name or any(c in self.name for c in "/.") or self.name != self.name.strip():
            raise ValueError(f"the silo name {self.name!r} must not be empty or contain '/', '.' or surrounding space")
        self.grpc = ""
        """``host:port`` at which others reach it, once started."""
        self.http: str | None = None
        self.stopped: asyncio.Event = asyncio.Event()
        self._etcd_endpoints = [etcd] if isinstance(etcd, str) else list(etcd) if etcd is not None else None
        self._etcd_options = {"tls": etcd_tls, "user": etcd_user, "password": etcd_password}
        self._etcd_timeout = etcd_timeout
        self._store_url = store
        self._listen = listen
        self._advertise = advertise
        self._http_side = HttpSide(self, http, gateway_options, insecure=insecure) if http is not None else None
        self._labels = dict(labels or {})
        self._version = check_version(version)
        self._keys = Keys(cluster)
        self._cluster = cluster
        self._credentials = credentials or Credentials()
        self._insecure = insecure
        self._lease_ttl = lease_ttl
        self._drain_limit = drain_limit
        self._rebalance = rebalance
        self._settings = settings or Settings()
        self._runtime: Runtime | None = None
        self._loop_watch: LoopWatch | None = None
        self._transport: GrpcTransport | None = None
        self._store: Store | None = None
        self._etcd_side: EtcdSide | None = None
        self._placement = Placement("")
        self._suspicion: Suspicion | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._token: Token[Caller | None] | None = None
        self._joined = False
        self._stopping = False

    @property
    def runtime(self) -> Runtime:
        """The engine. Raises ``RuntimeError`` before ``start``."""
        if self._runtime is None:
            raise RuntimeError(f"the silo {self.name} is not started")
        return self._runtime

    @property
    def ready(self) -> bool:
        """Whether it is a member that takes messages now."""
        return self.condition == "ready"

    @property
    def condition(self) -> Condition:
        """Where it is between joining the cluster and having left it."""
        if self.stopped.is_set() or (self._stopping and not self._joined):
            return "stopped"
        if self._stopping:
            return "draining"
        if self._runtime is None or not self._joined:
            return "joining"
        return "ready" if self._runtime.may_act() else "fenced"

    def _serving_runtime(self) -> Runtime | None:
        """The engine while it can be called through this silo, also while that drains."""
        return self._runtime if self._runtime is not None and self._runtime.may_act() else None

    @property
    def members(self) -> list[Member]:
        """The live members as this silo sees them."""
        return list(self._etcd_side.membership.view.members.values()) if self._etcd_side is not None else []

    async def start(self) -> None:
        """Join the cluster and begin to take messages.

        Raises ``ValueError`` for settings that make no sense, ``OSError`` if an address cannot be used,
        ``EtcdUnavailable`` after ``etcd_timeout`` seconds of trying, ``NameTaken``, ``StoreMismatch``, ``NewerFormat``
        or a store's own errors. What was begun is undone.
        """
        try:
            await self._start()
            self._joined = True
            open_caller(self.runtime.outbound)
        except BaseException:
            await self._release()
            raise

    async def _start(self) -> None:
        if self._http_side is not None:
            self.http = await self._http_side.start()
        self._store = await open_store(self._store_url)
        if self._etcd_endpoints is None:
            await self._store.lock_exclusively()
            await self._start_alone(self._store)
        else:
            await self._start_member(self._store, self._etcd_endpoints)

    async def _start_alone(self, store: Store) -> None:
        era = await store.raise_era(await store.raise_era(0) + 1)
        silo = self._new_id()
        types = [actor._type for actor in self._hosted]
        self._make_runtime(store, LonelyDirectory(types, era=era, name=silo))
        await self._open_transport(silo)
        self._spawn(self.runtime.keep_agenda())

    async def _start_member(self, store: Store, endpoints: list[str]) -> None:
        client = await reach_etcd(endpoints, limit=self._etcd_timeout, **self._etcd_options)  # type: ignore[arg-type]
        side = self._etcd_side = EtcdSide(
            self, client, self._keys, store=store, placement=self._placement, clock=SystemClock(), ttl=self._lease_ttl
        )
        self._make_runtime(store, side.directory)
        witness = SiloWitness(side.membership, client, self.runtime, lambda: self._transport)
        self._suspicion = Suspicion(witness, spawn=self._spawn)
        self.runtime.queries["probe"] = witness.tell
        await side.enter()
        rebalancer = Rebalancer(self._placement) if self._rebalance else None
        self._spawn(LoadReport(self.runtime, side.membership, rebalancer).run())
        self._spawn(watch_neighbour(side.membership, lambda: self._transport))
        self._spawn(self.runtime.keep_agenda())

    def _make_runtime(self, store: Store, directory: Directory) -> None:
        self._runtime = Runtime(
            self._hosted,
            directory=directory,
            transport=NoTransport(),
            store=store,
            clock=SystemClock(),
            settings=self._settings,
            version=self._version,
        )
        limit = min(BLOCKED, self._lease_ttl / 2)  # well before the others take over
        self._loop_watch = LoopWatch(asyncio.get_running_loop(), self.name, limit=limit)
        self._loop_watch.start()
        for actor_type in self._runtime.types.values():
            if callable(actor_type.options.placement):
                self._placement.functions[actor_type.name] = actor_type.options.placement

        client = self._etcd_side.client if self._etcd_side is not None else None
        page = self._http_side.parked_page if self._http_side is not None else None
        self._runtime.queries = {
            **SiloQueries(self, client, self._keys).queries(),
            **open_inspection(self._runtime, client, self._keys, page),
        }

    def _member(self, silo: str) -> Member:
        return Member(
            silo=silo,
            name=self.name,
            endpoint=self.grpc,
            http=self.http,
            types={name: _placement_name(t.options.placement) for name, t in self.runtime.types.items()},
            labels=self._labels,
            version=self._version,
            release=RELEASE,
            formats=dict(FORMATS),
            load=len(self.runtime.activations),
        )

    async def _open_transport(self, silo: str, *, welcome: bool = True) -> GrpcTransport:
        if self._transport is not None:
            await self._transport.close()
        self._transport = transport = GrpcTransport(
            name=silo,
            cluster=self._cluster,
            handler=self.runtime.inbound,
            endpoints=self._endpoint,
            credentials=self._credentials,
            max_payload=self._settings.max_payload + 64 * 1024,
            insecure=self._insecure,
            welcome=welcome,
            on_suspect=self._suspicion.suspect if self._suspicion is not None else None,
        )
        bound = await transport.listen(self._listen)
        self._listen = bound  # a rejoin keeps the port
        self.grpc = advertised(bound, self._advertise, self._etcd_endpoints)
        self.runtime.transport = transport
        return transport

    def _new_id(self) -> str:
        return f"{self.name}.{secrets.token_hex(4)}"

    def _endpoint(self, silo: str) -> str | None:
        member = self._etcd_side.membership.view.members.get(silo) if self._etcd_side is not None else None
        return member.endpoint if member is not None else None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- the end ----------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Move every actor to the other silos with what it has in memory, and its messages; leave the cluster.

        Running turns have ``drain_limit`` seconds to end; then durable ones go on elsewhere from their journal.
        Cancelling ends everything at once, like ``abort``.
        """
        if self._stopping:
            await self.stopped.wait()
            return
        self._stopping = True
        if self._http_side is not None:
            self._http_side.close()
        if self._transport is not None:
            self._transport.retire()
        try:
            if self._runtime is not None:
                announcing = self._spawn(self._announce_draining())
                await asyncio.wait({announcing}, timeout=ANNOUNCE_LIMIT)
                await self._runtime.drain(limit=self._drain_limit)
        finally:
            await self._release()

    async def _announce_draining(self) -> None:
        if self._etcd_side is not None:
            with contextlib.suppress(EtcdError):
                await self._etcd_side.membership.update(draining=True)
        if isinstance(self.runtime.directory, LonelyDirectory):
            self.runtime.directory.open = False

    async def abort(self) -> None:
        """End at once, as a crash would: nothing is stored, released or said goodbye to. For tests."""
        self._stopping = True
        if self._runtime is not None:
            self._runtime.vanish()
        if self._transport is not None:
            await self._transport.close(at_once=True)
        await self._release(leave=False)

    async def _release(self, *, leave: bool = True) -> None:
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._loop_watch is not None:
            self._loop_watch.stop()
        if self._runtime is not None:
            close_caller(self._runtime.outbound)
            await self._runtime.close()
        if self._http_side is not None:
            await self._http_side.stop()
        if leave:
            await self._leave()
        elif self._etcd_side is not None:
            await self._etcd_side.membership.stop()
        if self._transport is not None:
            await self._transport.close()
        if self._etcd_side is not None:
            await self._etcd_side.client.close()
        if self._store is not None:
            await _close_store(self._store)
        self.stopped.set()

    async def _leave(self) -> None:
        if self._etcd_side is not None:
            await self._etcd_side.membership.leave()

    async def __aenter__(self) -> Self:
        await self.start()
        self._token = current_caller.set(self.runtime.outbound)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than it was entered in
                current_caller.reset(self._token)
        await self.stop()


async def _close_store(store: Store) -> None:
    """Close it, but do not wait for ever for a disk or database that hangs."""
    closing = asyncio.ensure_future(store.close())
    done, _ = await asyncio.wait({closing}, timeout=STORE_LIMIT)
    if not done:
        closing.cancel()
        log.error("the store did not end within %g s: what was under way may be stored or not", STORE_LIMIT)
    else:
        closing.result()


def _placement_name(placement: object) -> str:
    return placement if isinstance(placement, str) else "balanced"
