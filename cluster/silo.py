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

import msgspec
from starlette.routing import Route

from actors import codec
from actors.actor import Actor
from actors.alone import LonelyDirectory, NoTransport
from actors.code_version import check as check_version
from actors.envelope import Query, Reply
from actors.errors import Rejected
from actors.ports import Directory, Store
from actors.ref import Caller, close_caller, current_caller, open_caller
from actors.release import RELEASE
from actors.runtime import Runtime, actor_types
from actors.settings import Settings
from actors.watchdog import BLOCKED, LoopWatch
from cluster.clock import SystemClock
from cluster.directory import EtcdDirectory
from cluster.etcd import EtcdClient, EtcdError, EtcdUnavailable, Tls
from cluster.formats import FORMATS
from cluster.gateway import BUILTIN, Gateway, GatewayOptions, check_types
from cluster.gateway.app import PREFIX
from cluster.gateway.health import Condition, health_routes
from cluster.gateway.openapi import openapi_route
from cluster.gateway.server import Server
from cluster.inspection.inspector import open_inspection
from cluster.keys import Keys
from cluster.load_report import LoadReport
from cluster.member import Member
from cluster.membership import Membership, NameTaken
from cluster.neighbour import watch_neighbour
from cluster.overview import list_actors
from cluster.parked_page import ParkedPage
from cluster.placement import Placement
from cluster.rebalancing import Rebalancer
from cluster.store import open_store
from cluster.suspicion import Suspicion
from cluster.sweep import sweep
from cluster.transport import Credentials, GrpcTransport
from cluster.transport.options import is_loopback
from cluster.witness import SiloWitness

log = logging.getLogger("cluster.silo")

SWEEP_AFTER = 5.0
STORE_LIMIT = 15.0  # seconds for a store to finish what was begun
ANNOUNCE_LIMIT = 0.5  # what is left of the lease when etcd does not answer is for storing

_EVERYWHERE = ("0.0.0.0", "[::]", "")  # noqa: S104  # only compared with


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
            _check_listen(option, address)
        self.actors = list(actors)
        check_types(self.actors)
        self._hosted = [*self.actors, *(actor for actor in BUILTIN if actor not in self.actors)]
        self._gateway_options = gateway or GatewayOptions.from_environment()
        if http is not None and not (insecure or self._gateway_options.has_auth or is_loopback(http)):
            raise ValueError(
                f"at {http} the HTTP gateway would ask nobody who they are: give it keys for tokens (--auth-secret or "
                "--auth-jwks), listen on loopback (--http 127.0.0.1:PORT), or start with --insecure to let in whoever "
                "reaches it"
            )
        if http is None and self._gateway_options.pages is not None:
            raise ValueError(f"the pages in {self._gateway_options.pages} are served over HTTP: add --http HOST:PORT")
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
        self._http_listen = http
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
        self._etcd: EtcdClient | None = None
        self._membership: Membership | None = None
        self._directory: EtcdDirectory | None = None
        self._placement = Placement("")
        self._server: Server | None = None
        self._gateway: Gateway | None = None
        self._suspicion: Suspicion | None = None
        self._parked_page: ParkedPage | None = None
        self._loads: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._token: Token[Caller | None] | None = None
        self._joined = False
        self._stopping = False
        self._draining: asyncio.Task[None] | None = None

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
        return list(self._membership.view.members.values()) if self._membership is not None else []

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
        if self._http_listen is not None:
            await self._open_http(self._http_listen)
        self._store = await open_store(self._store_url)
        if self._etcd_endpoints is None:
            await self._store.lock_exclusively()
            await self._start_alone(self._store)
        else:
            await self._start_member(self._store, self._etcd_endpoints)

    async def _open_http(self, listen: str) -> None:
        options = self._gateway_options
        self._gateway = Gateway(
            self._serving_runtime, options, open_to_all=self._insecure, types=actor_types(self.actors)
        )
        await self._gateway.start()
        self._parked_page = ParkedPage(listen, has_auth=options.has_auth)
        routes = [
            *health_routes(lambda: self.condition),
            openapi_route([(chat.path, chat.protocol) for chat in options.chats], authenticated=options.has_auth),
            Route("/parked", self._gateway.authenticated(self._parked_page)),
            *self._gateway.mounts,
        ]
        self._server = Server(options, routes, direct={PREFIX: self._gateway})
        self.http = await self._server.start(listen)

    async def _start_alone(self, store: Store) -> None:
        era = await store.raise_era(await store.raise_era(0) + 1)
        silo = self._new_id()
        types = [actor._type for actor in self._hosted]
        self._make_runtime(store, LonelyDirectory(types, era=era, name=silo))
        await self._open_transport(silo)
        self._spawn(self.runtime.keep_agenda())

    async def _start_member(self, store: Store, endpoints: list[str]) -> None:
        clock = SystemClock()
        await self._reach_etcd(endpoints)
        self._etcd = EtcdClient(endpoints, **self._etcd_options)  # type: ignore[arg-type]
        await self._etcd.connect()
        self._membership = Membership(self._etcd, self._keys, clock=clock, ttl=self._lease_ttl, on_lost=self._on_lost)
        self._membership.on_change = self._on_members
        self._directory = EtcdDirectory(
            self._etcd, self._keys, self._membership, store=store, placement=self._placement
        )
        self._make_runtime(store, self._directory)
        witness = SiloWitness(self._membership, self._etcd, self.runtime, lambda: self._transport)
        self._suspicion = Suspicion(witness, spawn=self._spawn)
        self.runtime.queries["probe"] = witness.tell
        await self._enter()
        rebalancer = Rebalancer(self._placement) if self._rebalance else None
        self._spawn(LoadReport(self.runtime, self._membership, rebalancer).run())
        self._spawn(watch_neighbour(self._membership, lambda: self._transport))
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

        self._runtime.queries = {
            "members": self._tell_members,
            "actors": self._tell_actors,
            "drain": self._drain_on_request,
            **open_inspection(self._runtime, self._etcd, self._keys, self._parked_page),
        }

    async def _tell_members(self, _: str) -> object:
        """For clients that do not know etcd: the members as this silo sees them."""
        alone = [self._member(self.runtime.directory.silo)]
        return msgspec.to_builtins(alone if self._membership is None else self.members)

    async def _drain_on_request(self, name: str) -> object:
        """An operator wants the silo of that name to go in good order; begin that, here or there."""
        if name == self.name:
            self._draining = asyncio.create_task(self.stop())
            return name
        found = next((member for member in self.members if member.name == name), None)
        if found is None:
            known = ", ".join(sorted({self.name, *(member.name for member in self.members)}))
            raise Rejected(f"there is no silo {name!r} (silos: {known})")
        link = await self.runtime.transport.connect(found.silo)
        answer = await self.runtime.question(link, Query(self.runtime.next_id(), "drain", name), about=name)
        return codec.decode(answer.payload, trusted=False) if isinstance(answer, Reply) else name

    async def _tell_actors(self, type_name: str) -> object:
        if self._etcd is not None:
            return await list_actors(self._etcd, self._keys, type_name)
        addresses = self.runtime.activations
        return {address: self.name for address in addresses if not type_name or address.startswith(f"{type_name}-")}

    async def _reach_etcd(self, endpoints: list[str]) -> None:
        """Return when etcd answers; say that it does not. Each attempt has more time: it may be slow, not away."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        patience = 2.0
        while True:
            left = started + self._etcd_timeout - loop.time()
            timeout = min(patience, max(left, 0.1))
            probe = EtcdClient(endpoints, timeout=timeout, **self._etcd_options)  # type: ignore[arg-type]
            patience *= 2
            try:
                await probe.connect()
                return
            except EtcdUnavailable as error:
                waited = loop.time() - started
                log.warning("waiting for etcd, %.0f of %.0f s: %s", waited, self._etcd_timeout, error)
                if waited >= self._etcd_timeout:
                    raise
            finally:
                await probe.close()
            await asyncio.sleep(min(0.5, self._etcd_timeout / 10))

    async def _enter(self) -> None:
        """Become a member as a new incarnation: new id, new links, new lease."""
        assert self._membership is not None
        assert self._directory is not None
        silo = self._new_id()
        await self._directory.adopt()
        await self._open_transport(silo)
        self._placement.silo = silo
        await self._membership.join(self._member(silo))

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

    async def _open_transport(self, silo: str) -> None:
        if self._transport is not None:
            await self._transport.close()
        self._transport = GrpcTransport(
            name=silo,
            cluster=self._cluster,
            handler=self.runtime.inbound,
            endpoints=self._endpoint,
            credentials=self._credentials,
            max_payload=self._settings.max_payload + 64 * 1024,
            insecure=self._insecure,
            on_suspect=self._suspicion.suspect if self._suspicion is not None else None,
        )
        bound = await self._transport.listen(self._listen)
        self._listen = bound  # a rejoin keeps the port
        self.grpc = advertised(bound, self._advertise, self._etcd_endpoints)
        self.runtime.transport = self._transport

    def _new_id(self) -> str:
        return f"{self.name}.{secrets.token_hex(4)}"

    def _endpoint(self, silo: str) -> str | None:
        member = self._membership.view.members.get(silo) if self._membership is not None else None
        return member.endpoint if member is not None else None

    # -- while it runs ----------------------------------------------------------------------------------------------

    def _on_members(self) -> None:
        """Members came, went or reported their load."""
        assert self._membership is not None
        members = self._membership.view.members
        for silo, member in members.items():
            if self._loads.get(silo) != member.load:
                self._placement.on_load(silo)
        gone = self._loads.keys() - members.keys()
        if gone and self._runtime is not None and members and min(members) == self._runtime.directory.silo:
            self._spawn(self._sweep())
        self._loads = {silo: member.load for silo, member in members.items()}
        if gone and self._transport is not None:
            for silo in gone:  # its lease has ended: whatever it may still say counts for nothing
                self._transport.give_up(silo, f"{silo} is no longer a member")

    def _on_lost(self) -> None:
        self.runtime.stop_acting()
        if not self._stopping:
            self._spawn(self._rejoin())

    async def _rejoin(self) -> None:
        assert self._membership is not None
        if self._transport is not None:
            await self._transport.close()
        while not self._stopping:
            try:
                await self._enter()
            except (EtcdError, OSError, NameTaken) as error:
                log.warning("%s cannot rejoin yet: %s", self.name, error)
                await asyncio.sleep(0.5)
            except Exception:
                log.exception("%s cannot rejoin", self.name)
                await asyncio.sleep(0.5)
            else:
                log.warning("%s has rejoined as %s", self.name, self._membership.silo)
                return

    async def _sweep(self) -> None:
        """Clean up after dead silos, when those who need their actors at once have taken them over."""
        assert self._etcd is not None
        assert self._membership is not None
        await asyncio.sleep(SWEEP_AFTER)
        try:
            await sweep(self._etcd, self._keys, self._membership.view.members)
        except EtcdError as error:
            log.info("the entries of dead silos stay for now: %s", error)

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
        if self._gateway is not None:
            self._gateway.close()
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
        if self._membership is not None:
            with contextlib.suppress(EtcdError):
                await self._membership.update(draining=True)
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
        if self._server is not None:
            await self._server.stop()
        if self._gateway is not None:
            await self._gateway.stop()
        if leave:
            await self._leave()
        elif self._membership is not None:
            await self._membership.stop()
        if self._transport is not None:
            await self._transport.close()
        if self._etcd is not None:
            await self._etcd.close()
        if self._store is not None:
            await _close_store(self._store)
        self.stopped.set()

    async def _leave(self) -> None:
        if self._membership is not None:
            await self._membership.leave()

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


def _check_listen(option: str, address: str | None) -> None:
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f'the {option} address {address!r} must be "host:port" with a port up to 65535')


def _placement_name(placement: object) -> str:
    return placement if isinstance(placement, str) else "balanced"


def advertised(bound: str, advertise: str | None, etcd: list[str] | None) -> str:
    """How others reach this silo: as its operator says, or at the address from which it reaches etcd."""
    host, _, port = bound.rpartition(":")
    if advertise is not None:
        return advertise if ":" in advertise else f"{advertise}:{port}"
    if host not in _EVERYWHERE:
        return bound
    return f"{_own_address(etcd[0]) if etcd else '127.0.0.1'}:{port}"


def _own_address(endpoint: str) -> str:
    """The address of this machine that faces an etcd endpoint. Sends nothing: UDP only chooses a route."""
    etcd_host, _, etcd_port = endpoint.rpartition("//")[2].rstrip("/").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((etcd_host, int(etcd_port)))
        except OSError as error:
            raise ValueError(f"the address of this silo cannot be found out ({error}): give --advertise") from None
        return str(probe.getsockname()[0])
