"""A host of the simulated cluster, and the silos that run there one after another."""

import asyncio
from typing import TYPE_CHECKING

from actors import Actor
from actors.ref import _open_callers
from actors.runtime import Runtime
from actors.settings import Settings
from cluster.placement import Placement
from cluster.silo import Silo
from tests.simulation.author import Author, Scrap
from tests.simulation.brief import Brief
from tests.simulation.clerk import Clerk
from tests.simulation.loop import PROCESS, WALL, Process
from tests.simulation.pupil import Pupil
from tests.simulation.subjects import Diary, Fragile, Ledger, Tally

if TYPE_CHECKING:
    from tests.simulation.world import World

SUBJECTS: list[type[Actor]] = [Ledger, Fragile, Tally, Diary, Author, Scrap, Brief, Pupil, Clerk]
TTL = 2
SETTINGS = Settings(call_timeout=6.0, delivery_timeout=3.0, activation_timeout=3.0)


class SimClock:
    """A silo's own clock, which may run a little fast or slow."""

    def __init__(self) -> None:
        self._process = PROCESS.get()

    def now(self) -> float:
        return asyncio.get_running_loop().time() * (1 + self._process.drift)

    def time(self) -> float:
        return WALL + asyncio.get_running_loop().time() + self._process.drift * 2


class Node:
    """A host on which one silo after the other runs."""

    def __init__(self, world: "World", index: int) -> None:
        self.world = world
        self.name = f"n{index}"
        self.host = f"127.0.0.{index + 1}"
        self.drift = world.random.uniform(-0.04, 0.04)
        self.process = Process(f"{self.name}/0", self.host)
        self.process.dead = True
        self.silo: Silo | None = None
        self.version = ""
        self._starts = 0
        self._busy = False

    @property
    def runtime(self) -> Runtime | None:
        return self.silo.runtime if self.silo is not None and not self.process.dead else None

    async def start(self) -> None:
        """Start a silo as its supervisor would: again and again until it is up."""
        while True:
            self._starts += 1
            self.process = self.world.process(f"{self.name}/{self._starts}", self.host)
            self.process.drift = self.drift
            task = self.world.loop.spawn(self.process, self._boot())
            await self.world.wait_for(task, self.process)
            if task.done() and not task.cancelled() and task.exception() is None:
                return
            if task.done() and not task.cancelled():
                self.world.history.note(f"{self.name} did not start: {task.exception()!r}")
            self.crash()
            await self.world.sleep(0.3)

    async def _boot(self) -> None:
        self.version = self.world.versions.draw()
        if self.version:
            self.world.history.note(f"{self.name} starts with version {self.version} of the code")
        subjects = [*SUBJECTS, self.world.versions.deed(self.version)]
        silo = Silo(
            subjects, etcd="sim", store="sim:", listen=f"{self.host}:7400", name=self.name, lease_ttl=TTL,
            settings=SETTINGS, drain_limit=1.5, insecure=True, version=self.version,
        )  # fmt: skip
        silo._placement = Placement("", seed=self.world.random.getrandbits(32))
        await silo.start()
        self.silo = silo

    def crash(self) -> None:
        process, silo, self.silo = self.process, self.silo, None
        self.world.history.disturb()
        self.world.history.parted(process)
        self.world.loop.kill(process)
        self.world.network.kill(process)
        if silo is not None and silo._runtime is not None and silo._runtime.outbound in _open_callers:
            _open_callers.remove(silo._runtime.outbound)

    async def restart(self) -> None:
        """Start again, unless somebody does already."""
        if self.process.dead and not self._busy:
            self._busy = True
            await self.start()
            self._busy = False

    async def drain(self) -> None:
        """SIGTERM, and the end of the process when the silo has stopped."""
        silo, process = self.silo, self.process
        if silo is None or process.dead:
            return
        task = self.world.loop.spawn(process, silo.stop())
        started = self.world.loop.time()
        self.world.history.disturb()  # what it hands on goes another way than what its senders send next
        self.world.history.part(process)
        await self.world.wait_for(task, process)
        self.world.history.disturb()
        took = self.world.loop.time() - started - self.world.frozen_for.get(process, 0.0)
        if took > 12:
            self.world.history.violate("a drain ends", self.name, expected="an end within 12 s", actual=f"{took:.1f} s")
        if self.process is process:
            self.crash()
