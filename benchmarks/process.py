"""The processes of a benchmark: started, spoken to over pipes, and never left behind."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from benchmarks.load import Window
from benchmarks.peer import Answer, Count, Drive, Place, Ready

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
_START_LIMIT = 60.0
_ANSWER_LIMIT = 60.0
_STOP_LIMIT = 10.0
_LOG_TAIL = 2_000


class WorkerFailed(Exception):
    """A process of a contestant did not start, went away, or could not do what it was asked for."""


class Worker:
    """A process that answers commands, one line of JSON each."""

    def __init__(self, title: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self.title = title
        self.endpoint = ""
        self._serves = 0
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The id of the process that does the work."""
        return self._serves or self._process.pid

    async def drive(self, work: str, *, callers: int, seconds: float) -> Window:
        """One run of the closed loop. Raises ``WorkerFailed``."""
        return await self.ask(Drive(work, callers, seconds), Window, within=seconds + _ANSWER_LIMIT)

    async def count(self) -> dict[str, float]:
        """Its counters. Raises ``WorkerFailed``."""
        return await self.ask(Count(), dict[str, float], within=_ANSWER_LIMIT)

    async def wait_ready(self) -> None:
        """Raises ``WorkerFailed`` if it exits, or takes too long, before it is ready."""
        ready = await self.hear(Ready, within=_START_LIMIT)
        self.endpoint, self._serves = ready.endpoint, ready.pid

    async def ask(self, command: msgspec.Struct, answer: type[T], *, within: float) -> T:
        """What it answers to any command. Raises ``WorkerFailed``."""
        self.tell(command)
        return await self.hear(answer, within=within)

    def tell(self, command: msgspec.Struct) -> None:
        """Give it a command; its answer is to be heard later."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def hear(self, answer: type[T], *, within: float) -> T:
        """Its next answer."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise WorkerFailed(f"{self.title} did not answer within {within:g} s\n{self._log_tail()}") from None
        if not line:
            raise WorkerFailed(f"{self.title} ended with status {await self._process.wait()}\n{self._log_tail()}")
        said = msgspec.json.decode(line, type=Answer)
        if said.error:
            raise WorkerFailed(f"{self.title}: {said.error}\n{self._log_tail()}")
        return msgspec.json.decode(said.value, type=answer)

    async def stop(self) -> None:
        """Let it finish, and kill it with all its children if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_LIMIT):
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()

    def _log_tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-_LOG_TAIL:].strip()


@contextlib.asynccontextmanager
async def start_process(title: str, command: Sequence[str]) -> AsyncIterator[Worker]:
    """Start ``python -m <command>`` in a session of its own: Ctrl-C is for the benchmark, which then ends it."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            cwd=ROOT, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}, start_new_session=True,
        )  # fmt: skip
        worker = Worker(title, process, log)
        try:
            await worker.wait_ready()
            yield worker
        finally:
            with contextlib.suppress(TimeoutError):
                await worker.stop()


def start_worker(peer: str, role: str, place: Place) -> contextlib.AbstractAsyncContextManager[Worker]:
    """A process of a contestant, ready when entered. Raises ``WorkerFailed``."""
    command = ["benchmarks.worker", peer, role, msgspec.json.encode(place).decode()]
    return start_process(f"{peer} ({role})", command)


def cpu_seconds(pid: int) -> float:
    """CPU time that the process has used so far, in all its threads; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float:
    """CPU time that all programs of the machine together have used so far; NaN where there is no /proc."""
    try:
        user, nice, system, _idle, _waiting, *others = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return float("nan")
    return sum(map(int, (user, nice, system, *others))) / os.sysconf("SC_CLK_TCK")
