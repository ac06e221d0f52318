"""A cluster of ``silo start`` processes whose members may be killed, frozen or cut off, and are replaced."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.namespaces import Network, free_port
from benchmarks.process import ROOT, WorkerFailed
from cluster.etcd import EtcdServer
from cluster.transport import Credentials

TTL = 4
"""Seconds of a lease: the default."""

_START_LIMIT = 60.0
_STOP_LIMIT = 20.0
_POLL = 0.02
_LOG_TAIL = 2_000


class SiloProcess:
    """One ``silo start`` process. Its output goes to files."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", out: Path, err: Path) -> None:
        self.name = name
        self.process = process
        self.grpc = ""
        """Where it listens, once it is ready."""
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def wait_ready(self) -> None:
        """Raises ``WorkerFailed`` if it exits, or takes too long, before it is ready."""
        await self._until("is ready", lambda: b"\n" in self._out.read_bytes(), within=_START_LIMIT)
        self.grpc = msgspec.json.decode(self._out.read_bytes().splitlines()[0])["grpc"]

    async def wait_ended(self) -> None:
        """Raises ``WorkerFailed`` if that takes too long."""
        await self._until("has ended", lambda: self.process.poll() is not None, within=_STOP_LIMIT)

    async def _until(self, what: str, condition: Callable[[], bool], *, within: float) -> None:
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end or (self.process.poll() is not None and not condition()):
                log = self._err.read_text(errors="replace")[-_LOG_TAIL:].strip()
                raise WorkerFailed(f"not within {within:g} s: {self.name} {what}\n{log}")
            await asyncio.sleep(_POLL)


class SiloProcesses:
    """Three silos or so over one etcd and one store. Made by ``open_silos``."""

    def __init__(self, app: str, etcd: str, *, store: str | None, folder: Path, network: Network | None = None) -> None:
        self.file = None if store is not None else folder / "state.db"
        """The SQLite file that they share; None if the store was given."""
        self.etcd = etcd
        self.credentials = Credentials(token=secrets.token_hex(16))
        self.network = network
        self.running: dict[str, SiloProcess] = {}
        self._started = 0
        self._app = app
        self._folder = folder
        self._environment = {
            "SILO_STORE": store or f"sqlite:///{self.file}",
            "SILO_TOKEN": self.credentials.token or "",
        }

    async def start(self, *names: str) -> None:
        """Start them and return when all of them are ready. Raises ``WorkerFailed``."""
        for silo in [self._spawn(name) for name in names]:
            await silo.wait_ready()

    def _spawn(self, name: str) -> SiloProcess:
        host = "127.0.0.1" if self.network is None else self.network.address_of(name)
        command = [
            *([] if self.network is None else self.network.command(name)),
            sys.executable, "-m", "cluster.cli", "start", self._app, "--etcd", self.etcd, "--name", name,
            "--listen", f"{host}:0", "--lease-ttl", str(TTL), "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SILO_")}
        self._started += 1
        out, err = self._folder / f"{self._started}.out", self._folder / f"{self._started}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            # Not by asyncio, whose fork runs handlers of gRPC, which is in use here.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=ROOT,
                env={**inherited, **self._environment}, start_new_session=True,
            )  # fmt: skip
        silo = self.running[name] = SiloProcess(name, process, out, err)
        return silo

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process of a silo."""
        self.running[name].process.send_signal(number)

    async def replace(self, name: str) -> None:
        """Wait until the silo has ended, and start another of that name. Raises ``WorkerFailed``."""
        await self.running[name].wait_ended()
        await self.start(name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for silo in self.running.values():
            silo.process.kill()  # also if it is stopped
            silo.process.wait()


@contextlib.asynccontextmanager
async def open_silos(
    app: str, names: Sequence[str], *, store: str | None = None, network: Network | None = None
) -> AsyncIterator[SiloProcesses]:
    """A cluster of its own, with an etcd that syncs to disk; the store is a SQLite file unless it is given."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        silos = SiloProcesses(
            app,
            await _start_etcd(stack, network),
            store=store,
            folder=folder,
            network=network,
        )
        await stack.enter_async_context(silos)
        await silos.start(*names)
        yield silos


async def _start_etcd(stack: contextlib.AsyncExitStack, network: Network | None) -> str:
    """Where it can be reached, from all hosts."""
    if network is None:
        return (await stack.enter_async_context(EtcdServer())).endpoint
    port = free_port(network.address)
    urls = f"http://127.0.0.1:{port},http://{network.address}:{port}"
    args = (f"--listen-client-urls={urls}", f"--advertise-client-urls={urls}")
    await stack.enter_async_context(EtcdServer(client_port=port, args=args))
    return f"http://{network.address}:{port}"
