"""Silo processes that serve the page of ``examples/chat``, and what a browser reaches them through."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from cluster import Client, connect
from cluster.etcd import EtcdServer
from examples.chat.__main__ import PAGES
from examples.chat.balancer import balanced
from examples.chat.story import Session
from tests.browser.model import Model, scripted_model
from tests.cluster.etcd.proxy import Proxy
from tests.cluster.house import calling_from
from tests.cluster.processes import Cluster, Process, Processes

APP = "examples.chat.story"


class Turn(NamedTuple):
    """A turn of a story, as the page shows it or as it is stored."""

    line: str
    text: str
    end: str


class Stage:
    """Silos behind one address. Between a browser and them is a network that can be cut."""

    def __init__(self, cluster: Cluster, model: Model, network: Proxy, http: list[str], *, app: str) -> None:
        self.cluster = cluster
        self.model = model
        self.network = network
        self.http = http
        """Where the silos that new connections are led to serve HTTP."""
        self.silos: dict[str, Process] = {}
        self._app = app

    @property
    def url(self) -> str:
        """The page's, in front of the network."""
        return self.network.endpoint

    async def start(self, count: int) -> None:
        """Start silos."""
        names = [f"n{len(self.silos) + number}" for number in range(1, count + 1)]
        env = {"LOCAL_MODEL_URL": self.model.url, "SILO_PAGES": str(PAGES), "OPENAI_BASE_URL": ""}
        started = await self.cluster.start(*names, app=self._app, env=env)
        self.silos.update(zip(names, started, strict=True))
        self.http += [await self.http_of(name) for name in names]

    async def kill(self, *names: str) -> None:
        """SIGKILL silos, one right after the other."""
        for name in names:
            self.http.remove(await self.http_of(name))
        for name in names:
            await self.silos[name].kill()

    @property
    def alive(self) -> list[str]:
        """The names of the silos that run."""
        return [name for name, silo in self.silos.items() if silo.running]

    async def http_of(self, name: str) -> str:
        """Where a silo serves HTTP."""
        (ready,) = await self.silos[name].ready()
        return str(ready["http"])


class Truth:
    """What the cluster knows of a story, told to a client that never sees the page."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def turns(self, name: str) -> list[Turn]:
        """The state of the session."""
        with calling_from(self.client):
            story = await Session.ref(name).read()
        return [Turn(turn.line, turn.text, turn.end) for turn in story.turns]

    async def told(self, name: str, count: int) -> list[Turn]:
        """The first turns that its channel tells of, put together."""
        turns: list[Turn] = []
        entries: list[tuple[int, object]] = []
        with calling_from(self.client):
            events = Session.ref(name).channel("output").subscribe()
            async with aclosing(events):  # type: ignore[type-var]
                async for offset, data, kind, *_ in events:
                    entries = [entry for entry in entries if kind != "reset" or entry[0] < data]
                    if kind == "item":
                        entries.append((offset, data))
                    turns = _turns([data for _, data in entries])
                    if len([turn for turn in turns if turn.end]) == count:
                        break
        return turns

    async def write(self, name: str, line: str) -> None:
        """Somebody without a browser writes a line."""
        with calling_from(self.client):
            await Session.ref(name).write.send(line)

    async def delete(self, name: str) -> None:
        """Somebody deletes the story."""
        with calling_from(self.client):
            await Session.ref(name).delete()

    async def home(self, name: str) -> str:
        """The silo on which the story lives now, "" if it sleeps."""
        return (await self.client.placements("session")).get(f"session-{name}", "")


def _turns(entries: list[object]) -> list[Turn]:
    turns: list[Turn] = []
    for data in entries:
        match data:
            case {"line": str(line)}:
                turns.append(Turn(line, "", ""))
            case {"end": str(end)}:
                turns[-1] = turns[-1]._replace(end=end)
            case str():
                turns[-1] = turns[-1]._replace(text=turns[-1].text + data)
    return turns


@asynccontextmanager
async def staged(etcd: EtcdServer, folder: Path, *, app: str = APP) -> AsyncIterator[tuple[Stage, Truth]]:
    """Two silos with the app and a scripted model."""
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(folder))
        model = await stack.enter_async_context(scripted_model())
        cluster = Cluster(processes, etcd, folder)
        http: list[str] = []
        address = await stack.enter_async_context(balanced(http))
        network = await stack.enter_async_context(Proxy(f"http://{address}"))
        stage = Stage(cluster, model, network, http, app=app)
        await stage.start(2)
        client = await stack.enter_async_context(connect(etcd=etcd.endpoint, cluster=cluster.name))
        yield stage, Truth(client)
