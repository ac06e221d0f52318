"""Readers of channels see every item once and in order, whatever becomes of the silos between them and the actor."""

import asyncio
import signal
from contextlib import AsyncExitStack

from actors import actor_ref
from actors.channel import Event
from cluster import Client, connect
from tests.cluster.processes import Cluster, Process
from tests.cluster.waiting import eventually

APP = "tests.cluster.durable_actors"


class Reader:
    """A task that reads a channel to its end. A ``restless`` one leaves after every third event, and comes again."""

    def __init__(self, address: str, *, restless: bool = False) -> None:
        self.events: list[Event] = []
        self._ref = actor_ref(address)
        self._at_once = 3 if restless else 1_000_000
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self.events or self.events[-1].kind != "closed":
            after = self.events[-1].offset if self.events else None
            count = 0
            async for event in self._ref.channel("output").subscribe(after):
                self.events.append(event)
                count += 1
                if count == self._at_once:
                    break

    def has(self, count: int) -> bool:
        """Whether so many events were read. Raises what has ended the reading."""
        if self.task.done():
            self.task.result()
        return len(self.events) >= count


async def endpoint(silo: Process) -> str:
    found: str = (await silo.ready())[0]["grpc"]
    return found


async def test_readers_see_every_item_once_while_silos_are_killed_and_drained(cluster: Cluster) -> None:
    """The readers come through silos that are not the owner; gateway, owner and next owner go, one after the other."""
    n1, n2, n3 = await cluster.start("n1", "n2", "n3", app=APP)
    readers: list[Reader] = []
    clients: list[Client] = []
    published, enough = 0, asyncio.Event()

    async def publish() -> None:
        nonlocal published
        while not enough.is_set():
            if published % 10:
                await actor_ref("register-n1.a").options(timeout=30).publish_all("output", [published, published + 1])
                published += 2
            else:
                await actor_ref("register-n1.a").channel().publish(published)
                published += 1

    async def go_on() -> None:
        """Return when the readers have more, after whatever has happened."""
        goal = published + 10
        await eventually("the readers go on", lambda: all(reader.has(goal) for reader in readers), within=30)
        assert not publishing.done()

    async with AsyncExitStack() as stack:
        for first, second, restless in ((n2, n3, False), (n3, n2, False), (n2, n3, True)):
            client = connect([await endpoint(first), await endpoint(second)], cluster=cluster.name)
            clients.append(await stack.enter_async_context(client))
            readers.append(Reader("register-n1.a", restless=restless))
            await asyncio.sleep(0)  # a task calls through the client of the moment in which it begins
        await stack.enter_async_context(connect(etcd=cluster.etcd, cluster=cluster.name))
        publishing = asyncio.create_task(publish())
        await go_on()
        await n2.kill()
        await go_on()
        await n1.kill()
        await go_on()
        (n1,) = await cluster.start("n1", app=APP)
        for client in clients:
            client.add_endpoint(await endpoint(n1))
        n3.signal(signal.SIGTERM)
        assert (await n3.ended(within=15)).status == 0
        await go_on()
        enough.set()
        await publishing
        readers.append(Reader("register-n1.a"))
        wanted = [(number, number, "item") for number in range(published)]
        await eventually("all have read all", lambda: all(reader.has(published) for reader in readers), within=30)
        await actor_ref("register-n1.a").options(timeout=30).delete()
        async with asyncio.timeout(20):
            await asyncio.gather(*(reader.task for reader in readers))
    for reader in readers:
        assert [event[:3] for event in reader.events] == [*wanted, (published, None, "closed")]
