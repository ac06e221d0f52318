"""A cluster of silo processes whose members are killed, and come back."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from actors.settings import Settings
from cluster.client import Client, connect
from cluster.etcd import EtcdClient, EtcdServer
from cluster.keys import Keys
from cluster.overview import list_members
from tests.cluster.processes import ROOT, is_running
from tests.cluster.waiting import eventually
from tests.durable import faults

_MOST_KILLS = 1000
APPS = ("tests.durable.app", "tests.durable.programs", "tests.durable.talker")


class Process:
    """A silo that was forked."""

    def __init__(self, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._out = out
        self._err = err

    @property
    def running(self) -> bool:
        return is_running(self.pid)

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def is_ready(self) -> bool:
        return self._out.exists() and self._out.read_text().endswith("\n")

    async def ready_or_dead(self) -> None:
        """Return when it takes messages, or was killed before."""
        await eventually("a ready line", lambda: self.is_ready() or not self.running, within=20)

    async def ready(self) -> str:
        """Wait for the ready line; return where the silo listens."""
        await self.ready_or_dead()
        assert self.is_ready(), f"the silo ended:\n{self.err}"
        address = json.loads(self._out.read_text())["grpc"]
        assert isinstance(address, str)
        return address


class Nursery:
    """Forks silos quickly; all of them end with it. See ``tests.durable.nursery``."""

    def __init__(self, folder: Path, apps: Sequence[str]) -> None:
        self.apps = apps
        self._folder = folder
        self._numbers = itertools.count(1)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SILO_")}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.durable.nursery", *apps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**clean, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            text=True,
        )

    def start(self, words: list[str], env: Mapping[str, str], settings: Settings) -> Process:
        number = next(self._numbers)
        out, err = self._folder / f"{number}.out", self._folder / f"{number}.err"
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        order = {
            "words": words,
            "env": env,
            "settings": msgspec.to_builtins(settings),
            "out": str(out),
            "err": str(err),
        }
        self._popen.stdin.write(json.dumps(order) + "\n")
        self._popen.stdin.flush()
        return Process(int(self._popen.stdout.readline()), out, err)

    def close(self) -> None:
        self._popen.communicate()


@contextlib.contextmanager
def nursery(folder: Path, *, apps: Sequence[str] = APPS) -> Iterator[Nursery]:
    """A nursery for the length of the block."""
    found = Nursery(folder, apps)
    try:
        yield found
    finally:
        found.close()


class Cluster:
    """Silos by name, over one store and one etcd. ``folder`` holds plans and notes, see ``faults``."""

    def __init__(
        self,
        nursery: Nursery,
        etcd: EtcdServer,
        store_url: str,
        folder: Path,
        *,
        name: str,
        settings: Settings | None = None,
    ) -> None:
        self.name = name
        self.store_url = store_url
        self.folder = folder
        self.silos: dict[str, Process] = {}
        self.endpoints: dict[str, str] = {}
        self.kills = 0
        """How many silos were found dead."""
        self._nursery = nursery
        self._etcd = etcd
        self._settings = settings or Settings()

    async def start(self, *names: str, env: Mapping[str, str] | None = None) -> None:
        """Start these silos, and return when they are ready."""
        self._launch(*names, env=env)
        for name in names:
            self.endpoints[name] = await self.silos[name].ready()

    def _launch(self, *names: str, env: Mapping[str, str] | None = None) -> None:
        for name in names:
            words = [
                *("start", *self._nursery.apps, "--name", name, "--etcd", self._etcd.endpoint, "--cluster", self.name),
                *(
                    "--listen",
                    self.endpoints.get(name, "127.0.0.1:0"),
                    "--store",
                    self.store_url,
                    "--drain-limit",
                    "0.3",
                ),
            ]
            self.silos[name] = self._nursery.start(
                words, {faults.FOLDER: str(self.folder), **(env or {})}, self._settings
            )

    async def stop(self) -> None:
        """Kill all silos."""
        for silo in self.silos.values():
            silo.signal(signal.SIGKILL)
        await eventually("all silos end", lambda: not any(silo.running for silo in self.silos.values()))

    def client(self, *names: str) -> Client:
        """A client that enters through these silos, else through any."""
        return connect([self.endpoints[name] for name in names or self.silos], cluster=self.name)

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """In the block, silos that die lose their lease at once, as the end of it is not what is tested, and return."""
        await self._recover()
        task = asyncio.create_task(self._attend())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self._recover()

    async def _recover(self) -> None:
        """Return when all silos are ready."""
        await self.bury()
        while not all(silo.is_ready() and silo.running for silo in self.silos.values()):
            for silo in self.silos.values():
                await silo.ready_or_dead()
            await self.bury()

    async def _attend(self) -> None:
        while True:
            await self.bury()
            await asyncio.sleep(0.02)

    async def bury(self) -> bool:
        """End the leases of silos that are dead, and start them again; return whether there were any."""
        dead = [name for name, silo in self.silos.items() if not silo.running]
        if not dead:
            return False
        self.kills += len(dead)
        assert self.kills < _MOST_KILLS, f"silos end again and again:\n{self.silos[dead[0]].err}"
        await self.end_leases(*dead)
        self._launch(*dead)
        return True

    async def end_leases(self, *names: str) -> None:
        """Let these silos be no members any more."""
        async with EtcdClient([self._etcd.endpoint]) as etcd:
            for member in await list_members(etcd, Keys(self.name)):
                if member.name in names:
                    await etcd.revoke(member.lease)

    def plan_kill(self, address: str, point: str, count: int | str = 1, how: signal.Signals = signal.SIGKILL) -> None:
        """See ``faults.plan_kill``."""
        faults.plan_kill(self.folder, address, point, count, how)

    def killed(self, address: str) -> bool:
        """Whether the plan of the address has come true."""
        plan = faults.plan_of(self.folder, address)
        return plan.with_name(f"{plan.name}.done").exists()
