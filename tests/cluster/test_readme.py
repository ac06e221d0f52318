"""Every code block of the README, run as a reader would: pasted, in the order of the page."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.etcd import EtcdServer
from tests.conformance.store.postgres_server import PostgresServer

README = Path(__file__).parents[2] / "README.md"
LIMIT = 60.0
HOSTS = {"h1": "127.0.0.1", "h2": "127.0.0.2", "h3": "127.0.0.3"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what else stands behind the fence, its text and the heading above it."""

    language: str
    info: str
    text: str
    heading: str


def blocks() -> list[Block]:
    found, heading = [], ""
    for match in re.finditer(r"^## (.+)$|^```(\w+) ?(.*)\n([\s\S]*?)^```$", README.read_text(), re.MULTILINE):
        if match[1]:
            heading = match[1]
        else:
            found.append(Block(match[2], match[3], match[4], heading))
    return found


def block(heading: str, language: str, number: int = 0, *, info: str = "") -> str:
    fitting = [b.text for b in blocks() if (b.heading, b.language, b.info) == (heading, language, info)]
    return fitting[number]


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SILO_")}
    return {**kept, "PATH": paths, **more}


async def output(*command: str, cwd: Path, **env: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment(**env), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), LIMIT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


@contextlib.asynccontextmanager
async def running(command: list[str], cwd: Path, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command in the background, ended by SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment(**env), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.communicate(), LIMIT)
            except TimeoutError:
                process.kill()
                await process.wait()


async def endpoint(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), LIMIT)
    found = re.search(r'"grpc": "([^"]+)"', line.decode())
    assert found, line
    return found[1]


def curl(*words: str) -> str:
    """What curl would do, for a machine that has none."""
    data = words[1].encode() if words[0] == "-d" else None
    with urllib.request.urlopen(urllib.request.Request(words[-1], data), timeout=LIMIT) as response:
        return str(response.read().decode())


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def test_no_block_is_left_out() -> None:
    """A new block needs a test here: this is what says so."""
    kinds = [(b.heading, b.language, b.info) for b in blocks()]
    assert kinds == [
        ("A first actor", "python", ""),
        ("Work that survives", "python", ""),
        ("Talk to what runs", "python", ""),
        ("A cluster on this machine", "python", "title=story.py"),
        ("A cluster on this machine", "console", ""),
        ("A cluster on this machine", "console", ""),
        ("A cluster on this machine", "python", ""),
        ("Over HTTP", "console", ""),
        ("Over HTTP", "console", ""),
        ("On three hosts", "console", ""),
    ]


def test_the_first_actor_is_short() -> None:
    lines = [line for line in block("A first actor", "python").splitlines() if line.strip()]
    assert len(lines) < 20


async def test_the_first_actor_works_when_pasted(tmp_path: Path) -> None:
    (tmp_path / "pasted.py").write_text(block("A first actor", "python"))
    printed = [await output(sys.executable, "pasted.py", cwd=tmp_path) for _ in range(2)]
    assert printed == ["1\n", "2\n"]


async def test_the_work_that_survives(tmp_path: Path) -> None:
    (tmp_path / "pasted.py").write_text(block("Work that survives", "python"))
    assert await output(sys.executable, "pasted.py", cwd=tmp_path) == (
        "0 [tides 1]\n1 [tides 2]\n2 [tides 3]\n3 time for the review\n"
    )


async def test_talking_to_what_runs(tmp_path: Path) -> None:
    (tmp_path / "pasted.py").write_text(block("Talk to what runs", "python"))
    assert await output(sys.executable, "pasted.py", cwd=tmp_path) == "stopped: that is enough\npaid 5\n"


async def test_over_http(tmp_path: Path) -> None:
    (tmp_path / "story.py").write_text(block("A cluster on this machine", "python", info="title=story.py"))
    (dev,) = commands(block("Over HTTP", "console", 0))
    # The usual ports may be another program's.
    env = {"SILO_LISTEN": "127.0.0.1:0", "SILO_HTTP": f"127.0.0.1:{free_port()}"}
    async with running(dev, tmp_path, **env) as process:
        await endpoint(process)
        asked = [
            [word.replace("127.0.0.1:7480", env["SILO_HTTP"]) for word in command]
            for command in commands(block("Over HTTP", "console", 1))
        ]
        said = [await asyncio.to_thread(curl, *command[1:]) for command in asked]
        assert said == [str(len("Once upon a time")), '["Once upon a time"]']


async def test_the_cluster_on_this_machine(tmp_path: Path) -> None:
    heading = "A cluster on this machine"
    (tmp_path / "story.py").write_text(block(heading, "python", info="title=story.py"))
    (up,) = commands(block(heading, "console", 0))
    async with running(up, tmp_path) as process:
        silos = [await endpoint(process) for _ in range(3)]
        # The commands look at the usual ports, but another program of this machine may have taken them.
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.readuntil(b"ends the cluster\n"), LIMIT)
        (etcd,) = re.findall(r"etcd at (http://[^;]+);", said.decode())
        env = {"SILO_CONNECT": silos[0], "SILO_ETCD": etcd}
        asked = commands(block(heading, "console", 1))
        ps, ask, actors = [await output(*command, cwd=tmp_path, **env) for command in asked]
        assert all(name in ps for name in ("n1", "n2", "n3"))
        assert ask == f"{len('Once upon a time')}\n"
        assert "session-42" in actors
        program = block(heading, "python", 0)
        assert program.count("127.0.0.1:7400") == 1
        (tmp_path / "program.py").write_text(program.replace("127.0.0.1:7400", silos[0]))
        printed = await output(sys.executable, "program.py", cwd=tmp_path)
        assert printed.split()[1:] == [
            "Once",
            "upon",
            "a",
            "time",
            "there",
            "was",
            "a",
            "lighthouse",
            "by",
            "the",
            "sea.",
        ]


@pytest.mark.timeout(180)
async def test_three_hosts(tmp_path: Path) -> None:
    """The page's commands on three loopback addresses, each standing for a host."""
    export, start = commands(block("On three hosts", "console"))
    assert export[0] == "export"
    name, _, value = export[1].partition("=")
    (tmp_path / "story.py").write_text(block("A cluster on this machine", "python", info="title=story.py"))
    async with EtcdServer() as etcd, contextlib.AsyncExitStack() as stack:
        postgres = PostgresServer()
        stack.callback(postgres.stop)
        silos = []
        for host, address in HOSTS.items():
            port = free_port(address)
            here = {
                "h1": host,
                "0.0.0.0:7400": f"{address}:{port}",
                "http://etcd:2379": etcd.endpoint,
                "postgresql://silo:secret@db/silo": postgres.url("postgres"),
            }
            command = [here.get(word, word) for word in start]
            command[command.index("--advertise") + 1] = address
            process = await stack.enter_async_context(running(command, tmp_path, **{name: value}))
            silos.append(await endpoint(process))
        assert [silo.partition(":")[0] for silo in silos] == list(HOSTS.values())
        for silo, expected in zip(silos, (5, 10, 15), strict=True):
            command = ["silo", "ask", "session-1", '"hello"', "--connect", silo]
            said = await output(*command, cwd=tmp_path, **{name: value})
            assert said == f"{expected}\n"
