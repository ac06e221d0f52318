"""``silo up``: etcd and several silo processes on this machine."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.etcd import EtcdServer, EtcdServerFailed
from cluster.exit_status import ExitStatus, complain
from cluster.signals import StopSignals

log = logging.getLogger("cluster.up")

ETCD_PORT = 2379
SILO_PORT = 7400


def _free_or_any(port: int) -> int:
    """The port if nothing listens on it now, else 0: any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


class SiloProcess:
    """One ``silo start`` process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.ready_line = ""
        self.grpc = ""
        self.http: str | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def wait_ready(self) -> None:
        """Return when it has printed its ready line. Raises ``RuntimeError`` if it exits before that."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} exited with status {await self.process.wait()} before it was ready")
        self.ready_line = line.decode().strip()
        ready = json.loads(line)
        self.grpc, self.http = ready["grpc"], ready["http"]


class LocalCluster:
    """An etcd and ``silos`` silo processes that share a SQLite store in ``directory``.

    ``options`` are added to each silo's arguments, ``environment`` is for what may be secret.
    With ``usual_ports`` etcd and the first silo take the ports that commands look at by default, where they are free.
    As a context manager: entering returns when all silos are ready; leaving drains them. Raises ``EtcdServerFailed`` or
    ``RuntimeError`` if something does not start; what was started is stopped.
    """

    def __init__(
        self,
        apps: Sequence[str],
        *,
        silos: int = 3,
        directory: Path = Path(".silo"),
        store: str | None = None,
        etcd: str | None = None,
        usual_ports: bool = False,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._apps = list(apps)
        self._count = silos
        self._directory = directory
        self._store = (
            store or f"sqlite:///{'/' if directory.is_absolute() else ''}{str(directory).lstrip('/')}/state.db"
        )
        etcd_port = _free_or_any(ETCD_PORT) if usual_ports else 0
        self._server = EtcdServer(directory / "etcd", client_port=etcd_port) if etcd is None else None
        self._usual_ports = usual_ports
        self._etcd = etcd
        self._options = list(options)
        # The store is no argument: everybody can read those, and it may hold a password.
        self._environment = {"SILO_STORE": self._store, **(environment or {})}
        self.silos: list[SiloProcess] = []

    @property
    def etcd(self) -> str:
        """The endpoint of the directory."""
        if self._etcd is not None:
            return self._etcd
        assert self._server is not None
        return self._server.endpoint

    async def __aenter__(self) -> Self:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            if self._server is not None:
                await self._server.start()
            for number in range(1, self._count + 1):
                port = _free_or_any(SILO_PORT) if self._usual_ports and number == 1 else 0
                self.silos.append(await self._spawn(f"n{number}", port))
            await asyncio.gather(*(silo.wait_ready() for silo in self.silos))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _spawn(self, name: str, port: int) -> SiloProcess:
        command = [
            sys.executable, "-m", "cluster.cli", "start", *self._apps,
            "--etcd", self.etcd, "--name", name, "--listen", f"127.0.0.1:{port}",
            "--http", "127.0.0.1:0", "--parent-pid", str(os.getpid()), *self._options,
        ]  # fmt: skip
        inherited = {name: value for name, value in os.environ.items() if name != "SILO_CONFIG"}  # that of `silo up`
        # A session of its own: Ctrl-C in the terminal is for this process, which drains the silos in order.
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            env={**inherited, **self._environment},
        )
        return SiloProcess(name, process)

    async def watch(self) -> None:
        """Report silos that end by themselves; return when none is left."""
        await asyncio.gather(*(self._watch(silo) for silo in self.silos))

    async def _watch(self, silo: SiloProcess) -> None:
        status = await silo.process.wait()
        log.warning("%s (pid %d) ended with status %d", silo.name, silo.pid, status)

    async def stop(self, *, limit: float = 15.0) -> None:
        """Drain every silo at once, kill what has not ended after ``limit`` seconds, stop etcd."""
        running = [silo for silo in self.silos if silo.process.returncode is None]
        for silo in running:
            with contextlib.suppress(ProcessLookupError):
                silo.process.send_signal(signal.SIGTERM)
        if running:
            waits = [asyncio.create_task(silo.process.wait()) for silo in running]
            await asyncio.wait(waits, timeout=limit)
        for silo in running:
            if silo.process.returncode is None:
                log.warning("%s did not drain within %g s and is killed", silo.name, limit)
                with contextlib.suppress(ProcessLookupError):
                    silo.process.kill()
                await silo.process.wait()
        if self._server is not None:
            await self._server.close()


async def run_until_signal(local: LocalCluster) -> int:
    """Run the cluster, printing each silo's ready line, until a signal or until every silo has ended."""
    signals = StopSignals()
    entering = asyncio.create_task(local.__aenter__())
    stopping = asyncio.create_task(signals.wait())
    try:
        await asyncio.wait({entering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            return signals.exit_status
        await entering
        for silo in local.silos:
            print(silo.ready_line, flush=True)
        print(f"silo: etcd at {local.etcd}; Ctrl-C ends the cluster", file=sys.stderr, flush=True)
        watching = asyncio.create_task(local.watch())
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        return signals.exit_status if stopping.done() else complain("every silo has ended", ExitStatus.FAILED)
    except (EtcdServerFailed, RuntimeError) as error:
        return complain(error, ExitStatus.FAILED)
    finally:
        stopping.cancel()
        await local.stop()
