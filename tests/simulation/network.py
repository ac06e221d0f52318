"""The network under the real transport: connections with delays, that break, and partitions that hold them up.

``GrpcTransport`` and ``GrpcLink`` run as they are; only ``Dial`` and ``Listener``, their edge to gRPC, are replaced.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from cluster.transport.handshake import Identity, Introduction, admit, introduce
from cluster.transport.link import GrpcLink
from cluster.transport.refusal import Refusal
from tests.simulation.history import History
from tests.simulation.loop import PROCESS, Process, SimLoop

EOF = object()
WINDOW = 4  # writes that a blocked path takes before the next one waits


class Pipe:
    """One direction of a connection: in order, held while the path is blocked, cut when the connection breaks."""

    def __init__(self, network: "Network", source: Process, target: Process) -> None:
        self.network = network
        self.source = source
        self.target = target
        self.inbox: deque[object] = deque()
        self.held: list[object] = []
        self.cut = float("inf")
        self.over = False  # the target knows that nothing more comes
        self._last = 0.0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def push(self, data: object) -> None:
        if self.held or self.network.is_blocked(self.source.host, self.target.host):
            self.held.append(data)
            self.network.holding[self] = None
        else:
            self._last = max(self._last, self.network.arrival())
            self.network.loop.arrive(self.target, self._last, self._deliver, data, self._last)

    def flush(self) -> None:
        """The path is free again."""
        held, self.held = self.held, []
        for data in held:
            self.push(data)
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    async def room(self) -> None:
        """Wait while too much is held up, or until the other end is gone."""
        while len(self.held) >= WINDOW:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def end(self, *, after: float = 0.0, lossy: bool) -> None:
        """Nothing more is sent. ``lossy``: what is under way is lost, too."""
        loop = self.network.loop
        if lossy:
            self.cut = min(self.cut, loop.time())
            self.held.clear()
            self._last = max(loop.time(), loop.time() + after)
            loop.arrive(self.target, self._last, self._finish)
        else:
            self.push(EOF)

    def finish_now(self) -> None:
        """The target's own side has given the connection up."""
        self.cut = min(self.cut, self.network.loop.time())
        self._finish()

    def _deliver(self, data: object, when: float) -> None:
        if when <= self.cut and not self.over:
            self.inbox.append(data)
            self.over = data is EOF
            self._wake()

    def _finish(self) -> None:
        if not self.over:
            self.over = True
            self.inbox.append(EOF)
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self) -> object:
        while not self.inbox:
            if self.over:
                return EOF
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self.inbox.popleft()


class SimStream:
    """One end of a connection, as gRPC offers it."""

    def __init__(self, connection: "Connection", incoming: Pipe, outgoing: Pipe) -> None:
        self.connection = connection
        self.incoming = incoming
        self.outgoing = outgoing

    async def read(self) -> object:
        return await self.incoming.read()

    async def write(self, message: bytes, /) -> None:
        if self.incoming.over:
            raise ConnectionError("the connection is gone")
        if not self.outgoing.over:
            self.outgoing.push(message)
        if self.connection.network.random.random() < 0.1:
            await asyncio.sleep(self.connection.network.random.random() * 0.002)
        await self.outgoing.room()

    async def done_writing(self) -> None:
        self.outgoing.end(lossy=False)

    def done(self) -> bool:
        return self.incoming.over

    def cancel(self) -> None:
        """Give up at once; the other side hears of it."""
        self.connection.give_up(self)


class Connection:
    """What two processes share between dial and end."""

    def __init__(self, network: "Network", client: Process, server: Process) -> None:
        self.network = network
        forth, back = Pipe(network, client, server), Pipe(network, server, client)
        self.client = SimStream(self, back, forth)
        self.server = SimStream(self, forth, back)
        self.pipes = (forth, back)
        self.gone = False

    @property
    def hosts(self) -> tuple[str, str]:
        return self.pipes[0].source.host, self.pipes[0].target.host

    def touches(self, process: Process) -> bool:
        return process in (self.pipes[0].source, self.pipes[0].target)

    def give_up(self, stream: SimStream) -> None:
        """One side closes without goodbye: the other notices soon, or by its keep-alive if the path is blocked."""
        self.forget()
        stream.incoming.finish_now()
        after = self.network.notice_after(stream.outgoing)
        stream.outgoing.end(after=after, lossy=after > 0.5 or self.network.random.random() < 0.5)

    def break_off(self) -> None:
        """The connection is reset between the two: what is under way may be lost, both notice soon."""
        self.forget()
        for pipe in self.pipes:
            pipe.end(after=self.network.notice_after(pipe), lossy=True)

    def forget(self) -> None:
        if not self.gone:
            self.gone = True
            self.network.connections.remove(self)


class Network:
    """All hosts, and the paths between them. ``keepalive`` is after how long a silent connection is given up."""

    def __init__(self, loop: SimLoop, seed: random.Random, *, latency: float, keepalive: float = 6.0) -> None:
        self.loop = loop
        self.random = seed
        self.latency = latency
        self.keepalive = keepalive
        self.connections: list[Connection] = []
        self.listeners: dict[str, SimListener] = {}
        self.refusing: set[str] = set()
        self.holding: dict[Pipe, None] = {}  # in order
        self._blocked: dict[tuple[str, str], int] = {}

    def arrival(self) -> float:
        """When something that is sent now arrives: mostly soon, now and then late."""
        spread = self.latency * (0.2 + self.random.random())
        if self.random.random() < 0.02:
            spread = min(spread * 30, 0.2)  # two in a row must not cost a lease
        return self.loop.time() + spread

    def is_blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._blocked

    def notice_after(self, pipe: Pipe) -> float:
        if self.is_blocked(pipe.source.host, pipe.target.host):
            return self.keepalive * (0.6 + 0.4 * self.random.random())
        return self.arrival() - self.loop.time()

    def block(self, source: str, target: str) -> None:
        """Nothing passes from one host to the other, until ``unblock`` was called as often."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1
        for connection in self.connections:
            if set(connection.hosts) == {source, target}:
                self._watch(connection)

    def unblock(self, source: str, target: str) -> None:
        left = self._blocked[source, target] - 1
        if left:
            self._blocked[source, target] = left
            return
        del self._blocked[source, target]
        for pipe in [pipe for pipe in self.holding if (pipe.source.host, pipe.target.host) == (source, target)]:
            del self.holding[pipe]
            pipe.flush()

    def _watch(self, connection: Connection) -> None:
        """Let each side give up a silent connection by its own keep-alive."""
        for stream in (connection.client, connection.server):
            after = self.keepalive * (0.6 + 0.4 * self.random.random())
            self.loop.arrive(stream.incoming.target, self.loop.time() + after, self._give_up_if_silent, stream)

    def _give_up_if_silent(self, stream: SimStream) -> None:
        connection = stream.connection
        ends = connection.hosts
        silent = self.is_blocked(*ends) or self.is_blocked(*ends[::-1])
        if not stream.incoming.over and (silent or stream.outgoing.target.frozen):
            connection.give_up(stream)

    def freeze(self, process: Process) -> None:
        """The others give up their connections to a frozen process after a while."""
        for connection in self.connections:
            if connection.touches(process):
                self._watch(connection)

    def kill(self, process: Process) -> None:
        """Its ports close, its connections end: the kernel says so to the others, where the path lets it."""
        self.listeners = {where: listener for where, listener in self.listeners.items() if listener.process != process}
        for connection in [connection for connection in self.connections if connection.touches(process)]:
            connection.forget()
            for stream in (connection.client, connection.server):
                if stream.outgoing.source is process:
                    after = self.notice_after(stream.outgoing)
                    stream.outgoing.end(after=after, lossy=after > 0.5 or self.random.random() < 0.5)

    async def connect(self, process: Process, endpoint: str) -> SimStream:
        """Open a connection. Waits while the path is blocked; raises ``ConnectionRefusedError``."""
        await asyncio.sleep(self.arrival() - self.loop.time())
        host = endpoint.rpartition(":")[0]
        while self.is_blocked(process.host, host) or self.is_blocked(host, process.host):  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(0.1)
        listener = self.listeners.get(endpoint)
        if listener is None or host in self.refusing:
            raise ConnectionRefusedError(f"no link to {endpoint}: connection refused")
        connection = Connection(self, process, listener.process)
        self.connections.append(connection)
        if listener.process.frozen:
            self._watch(connection)
        self.loop.spawn(listener.process, listener.accept(connection.server))
        return connection.client


class SimDial:
    """Stands for ``cluster.transport.dial.Dial``."""

    network: Network

    def __init__(self, identity: Identity, endpoint: str, *, keepalive: float) -> None:
        self._identity = identity
        self._endpoint = endpoint
        self.stream: Any = None

    async def introduce(self, *, expected: str, is_silo: bool, timeout: float) -> tuple[Introduction, bytes]:
        where = f"{expected} at {self._endpoint}" if expected else self._endpoint
        try:
            async with asyncio.timeout(timeout):
                self.stream = await self.network.connect(PROCESS.get(), self._endpoint)
                return await introduce(self.stream, self._identity, expected=expected, is_silo=is_silo)
        except TimeoutError:
            raise ConnectionError(f"no link to {where}: no answer within {timeout:g} s") from None
        except Refusal as refusal:
            raise refusal.error(where) from None
        except EOFError as error:
            raise ConnectionError(f"no link to {where}: {error}") from None

    async def hang_up(self, *, politely: float = 0) -> None:
        if self.stream is None:
            return
        if politely:
            await self.stream.done_writing()
            try:
                async with asyncio.timeout(politely):
                    while isinstance(await self.stream.read(), bytes):
                        pass
            except TimeoutError:
                pass
        self.stream.cancel()


class SimListener:
    """Stands for ``cluster.transport.listener.Listener``."""

    network: Network

    def __init__(
        self,
        identity: Identity,
        *,
        opened: Callable[[Any, Introduction, str], GrpcLink | None],
        closed_to: Callable[[Introduction], str],
        handshake_timeout: float,
        keepalive: float,
    ) -> None:
        self.process = PROCESS.get()
        self._identity = identity
        self._opened = opened
        self._closed_to = closed_to
        self._timeout = handshake_timeout
        self._endpoint = ""
        self._streams: list[SimStream] = []

    async def listen(self, address: str) -> str:
        self._endpoint = address
        if address in self.network.listeners:
            raise OSError(f"cannot listen on {address}: the address is in use")
        self.network.listeners[address] = self
        return address

    async def close(self, grace: float) -> None:
        if self.network.listeners.get(self._endpoint) is self:
            del self.network.listeners[self._endpoint]
        if self._streams:
            await asyncio.sleep(grace)
        for stream in self._streams:
            stream.cancel()

    async def accept(self, stream: SimStream) -> None:
        self._streams.append(stream)
        try:
            async with asyncio.timeout(self._timeout):
                introduction = await admit(stream, self._identity, closed_to=self._closed_to)
            link = self._opened(stream, introduction, "ipv4:127.0.0.1:1") if introduction is not None else None
            if link is not None:
                await link.run()
        except (Refusal, EOFError, ConnectionError, TimeoutError):
            pass
        finally:
            self._streams.remove(stream)
        stream.outgoing.end(lossy=False)  # the handler's return ends the stream, after all that was written
        stream.connection.forget()


class SimLink(GrpcLink):
    """A link whose place in a set depends on nothing but the order of creation, and that can be listened to."""

    serials = itertools.count(1)
    trace: Callable[[str, GrpcLink, list[Any]], None] | None = None
    history: History

    def __init__(self, *args: Any, on_envelopes: Callable[[GrpcLink, list[Any]], None], **kwargs: Any) -> None:
        self.serial = next(SimLink.serials)

        def listened(link: GrpcLink, envelopes: list[Any]) -> None:
            if SimLink.trace is not None:
                SimLink.trace(PROCESS.get().name, link, envelopes)
            on_envelopes(link, envelopes)

        super().__init__(*args, on_envelopes=listened, **kwargs)

    def __hash__(self) -> int:
        return self.serial

    def leave(self) -> None:
        if not self.closed:
            self.history.part(PROCESS.get(), self.serial)
        super().leave()

    def end(self, reason: str) -> None:
        if not self.closed:
            self.history.disturb()
            self.history.parted(PROCESS.get(), self.serial)
        super().end(reason)
