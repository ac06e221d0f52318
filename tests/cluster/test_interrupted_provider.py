"""An interrupt stops what costs: a provider that streams to a silo through the ``openai`` client sees its end.

The provider is an HTTP server in a process of its own, which counts the tokens that it produces.
"""

import asyncio
import json
import signal
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import TurnInterrupted, actor_ref
from actors.channel import Event
from actors.ref import ActorRef
from benchmarks.model_server import Generated, Provider
from benchmarks.process import start_process
from cluster import connect
from tests.cluster.durable_actors import noted
from tests.cluster.processes import Cluster, Process, Processes
from tests.cluster.waiting import eventually
from tests.gateway.actors.socket_client import opened
from tests.gateway.http_client import Gateway

APP = "tests.cluster.provider_actors"
INTERVAL = 0.02
MOST_AFTERWARDS = 25
"""Tokens that may be produced after ``interrupt()`` has returned. On a machine with nothing else to do it is none."""


class Model:
    """The provider, and what it knows of each prompt."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def generated(self, prompt: str, *, closed: bool = False) -> Generated:
        """What it has produced; with ``closed`` once the connection has ended."""
        path = f"{self.url}/requests/{prompt}" + ("/closed" if closed else "")
        return msgspec.json.decode(await asyncio.to_thread(_get, path), type=Generated)

    async def tokens(self, prompt: str) -> int:
        return (await self.generated(prompt)).tokens

    def connections_of(self, silo: Process) -> int:
        """How many sockets the silo's process has to it (Linux)."""
        port = f":{int(self.url.rpartition(':')[2]):04X}"
        lines = [line.split() for line in Path(f"/proc/{silo.pid}/net/tcp").read_text().splitlines()[1:]]
        to_model = {f"socket:[{fields[9]}]" for fields in lines if fields[2].endswith(port)}
        return sum(_link(path) in to_model for path in Path(f"/proc/{silo.pid}/fd").iterdir())


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
        return body


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # closed since it was listed
        return ""


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    settings = msgspec.json.encode(Provider(INTERVAL)).decode()
    async with start_process("model", ["benchmarks.model_server", settings]) as process:
        yield Model(process.endpoint)


class Reader:
    """Reads a channel along, from its beginning."""

    def __init__(self, ref: ActorRef) -> None:
        self.seen: list[tuple[int, str, Any]] = []
        self._reading = asyncio.create_task(self._read(ref.channel("output").subscribe()))

    async def _read(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self.seen.append((event.offset, event.kind, event.data))

    async def has(self, count: int) -> None:
        await eventually(f"{count} entries are read", lambda: len(self.seen) >= count, within=30)

    async def agrees_with(self, ref: ActorRef) -> None:
        """Whoever comes later gets the same, to the last entry."""
        async with aclosing(Reader(ref)) as later:
            end = await published_range(ref)
            await asyncio.gather(self.has(end), later.has(end))
            assert self.seen == later.seen
        assert [offset for offset, _, _ in self.seen] == [*range(end)]

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})


async def published_range(ref: ActorRef) -> int:
    """Where the channel ends after the last turn, as the channel of turns tells."""
    async for event in ref.channel("$turns").subscribe():
        if event.data["event"] in ("interrupted", "committed"):
            ((_, end),) = event.data["published"]["output"]
            return int(end)
    raise AssertionError


@asynccontextmanager
async def writing(ref: ActorRef, model: Model, prompt: str, *, by: str = "write") -> AsyncIterator[Reader]:
    """A turn under way, some tokens of which are read. In the block it is stopped for good."""
    call: asyncio.Task[None] = asyncio.ensure_future(getattr(ref.options(timeout=60), by)(prompt))
    async with aclosing(Reader(ref)) as reader:
        await reader.has(3)
        yield reader
        before = await model.tokens(prompt)
        generated = await model.generated(prompt, closed=True)
        assert generated.tokens - before <= MOST_AFTERWARDS
        assert (generated.requests, generated.open) == (1, 0)
        with pytest.raises(TurnInterrupted, match="enough"):
            await call
        assert len(reader.seen) <= generated.tokens
        await reader.agrees_with(ref)


async def test_whoever_interrupts_the_provider_stops(cluster: Cluster, processes: Processes, model: Model) -> None:
    n1, n2 = await cluster.start("n1", "n2", app=APP, env={"TEST_MODEL": model.url})
    (ready,) = await n2.ready()
    gateway = Gateway(ready["http"])

    async def by_http(ref: ActorRef) -> bool:
        answer = await gateway(
            "POST", f"/v1/actors/{ref.address}/interrupt", '{"reason": "enough"}', {"Content-Type": "application/json"}
        )
        return bool(answer.status == 202 and answer.json["interrupted"])

    async def by_websocket(ref: ActorRef) -> bool:
        async with opened(gateway, ref.address) as ws:
            answer = await ws.call(type="interrupt", id=1, reason="enough")
            return bool(answer["value"]["interrupted"])

    async def by_command(ref: ActorRef) -> bool:
        where = ("--connect", ready["grpc"], "--cluster", cluster.name)
        ended = await processes.run("interrupt", ref.address, "--reason", "enough", "--json", *where)
        return bool(json.loads(ended.out)["interrupted"])

    ways: dict[str, Callable[[ActorRef], Awaitable[bool]]] = {
        "client": lambda ref: ref.interrupt("enough"),
        "another-silo": lambda ref: actor_ref("editor-n2.a").stop(ref),
        "http": by_http,
        "websocket": by_websocket,
        "command": by_command,
    }
    async with connect(ready["grpc"], cluster=cluster.name):
        tasks: Counter[str] = Counter()
        produced: dict[str, int] = {}
        for way, interrupt in ways.items():
            ref = actor_ref(f"author-n1.{way}")
            async with writing(ref, model, way):
                assert model.connections_of(n1) == 1
                assert {prompt: await model.tokens(prompt) for prompt in produced} == produced, "it went on after all"
                assert await interrupt(ref), f"{way}: nothing was interrupted"
            produced[way] = await model.tokens(way)
            assert await ref.finished() == []
            assert await ref.where() == "n1"
            await eventually("no socket is left", lambda: model.connections_of(n1) == 0)
            tasks = tasks or Counter(await ref.tasks())  # after the first, what a silo starts but once is there
            await eventually("no task is left", partial(_are_no_more_than, tasks, ref))


async def _are_no_more_than(tasks: Counter[str], ref: ActorRef) -> bool:
    return Counter(await ref.tasks()) <= tasks


async def test_a_turn_that_catches_every_exception_stops(cluster: Cluster, model: Model) -> None:
    n1, n2 = await cluster.start("n1", "n2", app=APP, env={"TEST_MODEL": model.url})
    async with connect((await n2.ready())[0]["grpc"], cluster=cluster.name):
        ref = actor_ref("author-n1.a")
        async with writing(ref, model, "stubborn", by="write_whatever_happens"):
            assert await ref.interrupt("enough")
        assert noted(cluster.folder, "tried-again") == []
        await eventually("no socket is left", lambda: model.connections_of(n1) == 0)


@pytest.mark.parametrize("by", ["write", "write_and_clean_up"])
async def test_an_interrupt_outlives_the_silo_that_heard_of_it(cluster: Cluster, model: Model, by: str) -> None:
    """The owner is killed when ``interrupt()`` has returned: where the turn runs again it is stopped at once."""
    n1, n2 = await cluster.start("n1", "n2", app=APP, env={"TEST_MODEL": model.url})
    async with connect((await n2.ready())[0]["grpc"], cluster=cluster.name):
        ref = actor_ref("author-n1.a")
        async with writing(ref, model, "killed", by=by):
            assert await ref.interrupt("enough")
            n1.signal(signal.SIGKILL)
        assert await ref.options(timeout=30).where() == "n2"
        assert await ref.finished() == []
        if by == "write_and_clean_up":
            assert noted(cluster.folder, "cleanup")[-1] == "n2", "it was not stopped where it ran again"
