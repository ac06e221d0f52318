"""``silo`` commands as real processes, with what they print."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cluster import connect
from cluster.etcd import EtcdServer
from tests.cluster.waiting import eventually

ROOT = Path(__file__).parents[2]
APP = "tests.cluster.house_actors"
TTL = 2
"""Of a ``Cluster``'s leases, in seconds."""


class Ended(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


class Process:
    """A command that runs. Its output goes to files, so that nothing blocks and all of it can be read again."""

    def __init__(self, popen: "subprocess.Popen[bytes]", out: Path, err: Path) -> None:
        self.popen = popen
        self.pid = popen.pid
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    @property
    def resident(self) -> int:
        """How many bytes of memory it holds (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def ready(self, count: int = 1, *, within: float = 30.0) -> list[dict[str, Any]]:
        """The first ready lines, parsed. Fails with its logs if it ends before that."""

        def printed() -> bool:
            assert self.running or self.out.count("\n") >= count, f"ended with {self.popen.returncode}:\n{self.err}"
            return self.out.count("\n") >= count

        try:
            await eventually(f"{count} ready lines", printed, within=within)
        except AssertionError as error:
            raise AssertionError(f"{error}\nstdout:\n{self.out}\nstderr:\n{self.err}") from None
        return [json.loads(line) for line in self.out.splitlines()[:count]]

    async def said(self, words: str, *, times: int = 1, within: float = 20.0) -> None:
        """Return when stderr has the words so many times."""
        await eventually(f"{words!r} in:\n{self.err}", lambda: self.err.count(words) >= times, within=within)

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    async def ended(self, *, within: float = 20.0) -> Ended:
        await eventually(f"process {self.pid} ends", lambda: not self.running, within=within)
        return Ended(self.popen.returncode, self.out, self.err)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()


class Processes:
    """Starts commands in a folder of their own and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if process.running:
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGKILL)
            process.popen.wait()

    def start(
        self,
        *words: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        module: str = "cluster.cli",
        inside: Sequence[str] = (),
    ) -> Process:
        """Run ``silo`` with these arguments. Settings come from here only, not from the caller's environment.

        ``inside``: words before the command that become it, such as those that enter a namespace.
        """
        number = len(self._running)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SILO_")}
        paths = os.pathsep.join(filter(None, [str(ROOT), clean.get("PYTHONPATH")]))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            popen = subprocess.Popen(
                [*inside, sys.executable, "-m", module, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**clean, "PYTHONPATH": paths, **(env or {})},
                cwd=cwd or self.folder,
                start_new_session=True,
            )
        process = Process(popen, out, err)
        self._running.append(process)
        return process

    def silo(self, name: str, *words: object, app: str = APP, env: Mapping[str, str] | None = None) -> Process:
        """``silo start`` with the actors of these tests, on free ports. It ends when the process of the tests does."""
        return self.start(
            "start", app, "--name", name, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
            "--parent-pid", os.getpid(), *words, env=env,
        )  # fmt: skip

    async def run(
        self, *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, within: float = 30.0
    ) -> Ended:
        """Run a command to its end."""
        return await self.start(*words, env=env, cwd=cwd).ended(within=within)

    async def run_each(self, *commands: Sequence[str], cwd: Path | None = None) -> list[Ended]:
        """Run one command after the other, all in one process."""
        many = self.start(
            json.dumps([list(words) for words in commands]), cwd=cwd, module="tests.cluster.many_commands"
        )
        ended = await many.ended(within=60)
        assert ended.status == 0, ended.err
        return [Ended(*found) for found in json.loads(ended.out)]


class Cluster:
    """Silo processes over one etcd and one SQLite file."""

    def __init__(self, processes: Processes, server: EtcdServer, folder: Path) -> None:
        self.name = f"test-{folder.name}"
        self.folder = folder
        self.file = folder / "state.db"
        self.store_url = f"sqlite:///{self.file}"
        self.etcd = server.endpoint
        self._processes = processes

    async def start(
        self, *names: str, app: str = APP, ttl: int = TTL, env: Mapping[str, str] | None = None
    ) -> list[Process]:
        """Silos that are ready and know each other. Their actors find the folder in ``TEST_FOLDER``."""
        options = ("--etcd", self.etcd, "--store", self.store_url, "--cluster", self.name, "--lease-ttl", ttl)
        env = {"TEST_FOLDER": str(self.folder), **(env or {})}
        started = [self._processes.silo(name, *options, "--drain-limit", 3, app=app, env=env) for name in names]
        ready = await asyncio.gather(*(process.ready() for process in started))
        await asyncio.gather(*(self._sees(lines[0]["grpc"], names) for lines in ready))
        return started

    async def _sees(self, endpoint: str, names: Collection[str]) -> None:
        """Return when the silo there knows these: until then it may place elsewhere what belongs to one of them."""
        async with connect(endpoint, cluster=self.name) as client:

            async def acquainted() -> bool:
                return {member.name for member in await client.members()} >= set(names)

            await eventually(f"the silo at {endpoint} sees {', '.join(names)}", acquainted)

    def rows(self, address: str, kind: bytes = b"") -> dict[bytes, bytes]:
        """The records that the file has of an address, read without the store; those of a kind begin with its byte."""
        found = self._select(
            "SELECT key, value FROM records JOIN actors ON actors.id = actor WHERE address = ?", address
        )
        return {key: value for key, value in found if key.startswith(kind)}

    def state(self, address: str) -> bytes | None:
        """The state that the file has of an address."""
        found = self._select("SELECT state FROM states JOIN actors ON actors.id = actor WHERE address = ?", address)
        return found[0][0] if found else None

    def actor(self, address: str) -> tuple[int, float | None]:
        """The epoch and the wake-up time that the file has of an address."""
        ((epoch, wake),) = self._select("SELECT epoch, wake FROM actors WHERE address = ?", address)
        return epoch, wake

    def _select(self, statement: str, address: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(statement, (address,)).fetchall()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run (Linux)."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that nobody has waited for."""
    return _state_of(pid) not in ("", "Z", "X")


def _state_of(pid: int) -> str:
    """The kernel's letter for the state of a process, "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def freeze(server: EtcdServer) -> None:
    """Pause the etcd and return when none of its threads runs any more."""
    server.pause()
    await eventually("etcd stands still", lambda: _state_of(server.pid or 0) == "T")


async def gone(*pids: int, within: float = 20.0) -> None:
    """Return when none of the processes is left."""
    await eventually(f"the processes {pids} end", lambda: not any(is_running(pid) for pid in pids), within=within)
