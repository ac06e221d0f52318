"""The processes of a run: silos that come back whenever they end, three members of etcd, and the store."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cluster.etcd import EtcdError, EtcdServer
from cluster.etcd.server import free_ports
from tests.chaos.small_disk import SmallDisk
from tests.chaos.wires import BRIDGE_ADDRESS, Wires, leash
from tests.cluster.etcd.members import Place, leader_of, three_members
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.processes import Process, Processes
from tests.cluster.waiting import eventually
from tests.conformance.store.postgres_server import PostgresServer

StoreKind = Literal["sqlite", "postgres"]

CLUSTER = "chaos"
TOKEN = "chaos"
"""Who has it is believed, also off loopback."""
TTL = 3
CLOCK_SKEW = Path(__file__).parent / "clock_skew"
_RESTART_PAUSE = 0.5


class SiloHost:
    """A silo, its way to etcd and the store, and whoever starts it again when it ends."""

    def __init__(self, name: str, host: str, fleet: "Fleet") -> None:
        self.name = name
        self.skew = 0.0
        self.drift = 0.0
        self.starts = 0
        self.etcd: list[Proxy] = []
        self.store: Proxy | None = None
        self.front: Proxy | None = None
        """Without wires: what stands in front of it."""
        self.process: Process | None = None
        self._fleet = fleet
        grpc, http = (7400, 7480) if fleet.wires is not None else free_ports(2)
        self.listen, self.http = f"{host}:{grpc}", f"{host}:{http}"
        self._wanted = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        """Where silos and clients reach it."""
        return self.front.address if self.front is not None else self.listen

    @property
    def ways_out(self) -> list[Proxy]:
        """The proxies to etcd and to the store."""
        return [*self.etcd, *([self.store] if self.store is not None else [])]

    def start(self) -> None:
        """Run it from now on, also when it ends by itself."""
        self._wanted.set()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            self.process = self._fleet.spawn(self)
            self.starts += 1
            await self._over(self.process)
            await asyncio.sleep(_RESTART_PAUSE)  # as a supervisor does

    async def _over(self, process: Process) -> None:
        await eventually(f"{self.name} ends", lambda: not process.running, within=float("inf"))

    async def end(self, number: signal.Signals) -> None:
        """Send a signal that ends it, wait until it has, and leave it so until ``start``."""
        self._wanted.clear()
        process = self.process
        if process is None or not process.running:
            return
        process.signal(number)
        try:
            await process.ended(within=20)
        except AssertionError:  # cut off from everything it may not find an end
            await process.kill()

    def freeze(self) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Start it no more. Its process is ended with the others."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})


class Fleet:
    """Use it as a context manager: when it is left, nothing runs any more."""

    def __init__(self, folder: Path, *, silos: int, store: StoreKind, wires: bool, plant: str = "") -> None:
        self.folder = folder
        self.wires = Wires() if wires else None
        self.members: list[EtcdServer] = []
        self.silos: list[SiloHost] = []
        self.postgres: PostgresServer | None = None
        self.disk = SmallDisk(folder / "disk") if wires and store == "sqlite" else None
        self._names = [f"n{number}" for number in range(1, silos + 1)]
        self._store: StoreKind = store
        self._store_url = f"sqlite:///{self.disk.folder if self.disk is not None else folder}/state.db"
        self._plant = plant
        self._stack = AsyncExitStack()
        self._processes = Processes(folder)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        if self.wires is not None:
            await self.wires.start()
            self._stack.callback(self.wires.detours.close)
        if self.disk is not None:
            self.disk.mount()
            self._stack.callback(self.disk.unmount, keep=self.folder / "store")
        places = [await self._place(f"m{number}") for number in range(3)]
        self.members = await self._stack.enter_async_context(three_members(self.folder / "etcd", places))
        if self._store == "postgres":
            self.postgres = PostgresServer()
            self._stack.callback(self.postgres.stop)
            self._store_url = self.postgres.new_database()
        await self._stack.enter_async_context(self._processes)
        for name in self._names:
            self.silos.append(await self._make(name))
        for silo in self.silos:
            self._stack.push_async_callback(silo.stop)
            silo.start()
        await asyncio.gather(*(self._ready(silo) for silo in self.silos))

    async def _ready(self, silo: SiloHost) -> None:
        await eventually(f"{silo.name} is started", lambda: silo.process is not None)
        assert silo.process is not None
        await silo.process.ready(within=60)

    async def _make(self, name: str) -> SiloHost:
        silo = SiloHost(name, await self.wires.add(name) if self.wires is not None else "127.0.0.1", self)
        silo.etcd = [await self._proxy(member.endpoint) for member in self.members]
        if self.postgres is not None:
            silo.store = await self._proxy(f"tcp://127.0.0.1:{self.postgres.port}")
        if self.wires is None:
            silo.front = await self._proxy(f"tcp://{silo.listen}")
        return silo

    async def _place(self, name: str) -> Place:
        """Of a member of etcd: by its name in a namespace of its own, if there are any."""
        if self.wires is None:
            return Place()
        return Place(await self.wires.add(name), self.wires.inside(name))

    async def leader(self) -> int | None:
        """The number of the member of etcd that leads, if one says so."""
        try:
            return self.members.index(await leader_of(self.members))
        except (EtcdError, AssertionError):
            return None

    async def _proxy(self, target: str) -> Proxy:
        host = BRIDGE_ADDRESS if self.wires is not None else "127.0.0.1"
        return await self._stack.enter_async_context(Proxy(target, host=host))

    def spawn(self, silo: SiloHost) -> Process:
        """Start the process of a silo."""
        store = self._store_url
        if self.postgres is not None and silo.store is not None:
            store = store.replace(f"127.0.0.1:{self.postgres.port}", silo.store.address)
        etcd = [word for proxy in silo.etcd for word in ("--etcd", proxy.endpoint)]
        paths = [str(CLOCK_SKEW), os.environ.get("PYTHONPATH", "")]
        return self._processes.start(
            "start", "tests.chaos.town", "--name", silo.name, "--listen", silo.listen, "--advertise", silo.endpoint,
            "--http", silo.http, "--store", store, "--cluster", CLUSTER, "--lease-ttl", TTL, "--drain-limit", 3,
            "--insecure", *etcd,
            env={
                "TEST_FOLDER": str(self.folder),
                "CHAOS_PLANT": self._plant,
                "CHAOS_SKEW": str(silo.skew),
                "CHAOS_DRIFT": str(silo.drift),
                "SILO_TOKEN": TOKEN,
                "PYTHONPATH": os.pathsep.join(filter(None, [*paths, str(Path(__file__).parents[2])])),
            },
            inside=self.wires.inside(silo.name) if self.wires is not None else leash(),
        )  # fmt: skip

    def logs(self) -> str:
        """What all processes of silos have said."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("*.err")))
