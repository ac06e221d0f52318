"""A handler that records, transports that are closed whatever happens, and a peer whose frames are written by hand."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from actors.envelope import Envelope, Mode, Reply, Request
from actors.ports import Link
from cluster.transport import Credentials, GrpcTransport
from cluster.transport.frame import METHOD, MIB
from cluster.transport.handshake import Identity, introduce
from cluster.transport.link_pb2 import Frame

PATIENCE = 20.0  # seconds after which an event that a test waits for counts as missing


class Recorder:
    """A LinkHandler that keeps everything and lets tests wait for it."""

    def __init__(self) -> None:
        self.batches: list[tuple[Link, list[Envelope]]] = []
        self.closed: list[tuple[Link, list[Envelope]]] = []
        self.echo = False
        self._changed = asyncio.Event()

    @property
    def envelopes(self) -> list[Envelope]:
        return [envelope for _, batch in self.batches for envelope in batch]

    @property
    def ids(self) -> list[int]:
        return [envelope.id for envelope in self.envelopes]

    def on_envelopes(self, link: Link, envelopes: list[Envelope]) -> None:
        self.batches.append((link, envelopes))
        if self.echo:
            for envelope in envelopes:
                if isinstance(envelope, Request):
                    link.send(Reply(envelope.id, envelope.payload))
        self._changed.set()

    def on_closed(self, link: Link, unsent: list[Envelope]) -> None:
        self.closed.append((link, unsent))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; checked whenever the handler was called."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_count(self, count: int) -> None:
        await self.until(lambda: sum(len(batch) for _, batch in self.batches) >= count)


class House:
    """Transports of one cluster that find each other."""

    def __init__(self) -> None:
        self.endpoints: dict[str, str] = {}
        self.transports: list[GrpcTransport] = []
        self.cleanups: list[Callable[[], Any]] = []

    def client(self, name: str, **settings: Any) -> tuple[GrpcTransport, Recorder]:
        handler = Recorder()
        given = {"cluster": "test", "credentials": Credentials(), "endpoints": self.endpoints.get, **settings}
        transport = GrpcTransport(name=name, handler=handler, **given)
        self.transports.append(transport)
        return transport, handler

    async def silo(self, name: str, **settings: Any) -> tuple[GrpcTransport, Recorder]:
        transport, handler = self.client(name, **settings)
        self.endpoints[name] = await transport.listen("127.0.0.1:0")
        return transport, handler

    async def scripted(self, silo: str, *, name: str = "n9.1", window: int = MIB) -> "ScriptedPeer":
        """A silo that is linked to another one and then does only what the test says."""
        peer = self.peer(silo)
        await peer.open(name, window)
        return peer

    def peer(self, silo: str) -> "ScriptedPeer":
        """A stream to the silo on which nothing was said yet."""
        peer = ScriptedPeer(self.endpoints[silo])
        self.cleanups.append(peer.hang_up)
        return peer

    async def close(self) -> None:
        async with asyncio.timeout(PATIENCE):
            for cleanup in self.cleanups:
                await cleanup()
            await asyncio.gather(*(transport.close() for transport in self.transports))


class ScriptedPeer:
    """The dialling side of a link, frame by frame."""

    def __init__(self, endpoint: str) -> None:
        self.channel: Any
        self.channel = grpc.aio.insecure_channel(endpoint, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stream: Any = self.channel.stream_stream(METHOD)()
        self.received: list[Frame] = []

    async def open(self, name: str, window: int) -> None:
        identity = Identity(id=name, cluster="test", credentials=Credentials(), window=window, max_payload=65 * MIB)
        _, opening = await introduce(self.stream, identity, expected="", is_silo=True)
        await self.stream.write(opening)

    async def write(self, frame: Frame | bytes) -> None:
        await self.stream.write(frame if isinstance(frame, bytes) else frame.SerializeToString())

    async def read(self) -> Frame | None:
        """The next frame, None at the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            data = await self.stream.read()
        return Frame.FromString(data) if isinstance(data, bytes) else None

    async def hang_up(self) -> None:
        await self.channel.close()


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    built = House()
    try:
        yield built
    finally:
        await built.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            # gRPC's own tasks take notice a little later.
            _, left = await asyncio.wait(left, timeout=PATIENCE)
        assert not left, f"tasks left after close: {left}"


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """Requests by number: ``request_of(7, address="a/1", size=100)``."""

    def make(number: int, *, address: str = "a/1", size: int = 10) -> Request:
        return Request(number, address, "", bytes(size), Mode.ASK, 0, f"m{number}")

    return make


@pytest.fixture
def token() -> str:
    return secrets.token_hex(16)
