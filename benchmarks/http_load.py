"""A load of HTTP requests and of readers of server-sent events, as lean as Python can: it is not what is measured."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final, cast

from benchmarks.load import Window, percentile

_CONNECTING: Final = 64  # connections that are made at a time
_PATIENCE: Final = 60.0  # seconds for the answer to a request, or for all readers to have an event


class HttpLoadFailed(Exception):
    """The server answered what it should not, went away, or did not answer."""


class Connection(asyncio.Protocol):
    """A connection that is kept open, for one request at a time."""

    def __init__(self) -> None:
        self.is_open = True
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._expected = b""
        self._came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def send(self, request: bytes, expected: bytes) -> "asyncio.Future[None]":
        """Send a request. The future is done when all of a response with the expected status is there."""
        assert self._transport is not None
        self._expected = expected
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        data = self._came + data
        if not _is_whole(data):
            self._came = data
            return
        self._came = b""
        assert self._answered is not None
        if data[9:12] == self._expected:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(HttpLoadFailed(data[:500].decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self.is_open = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(HttpLoadFailed(f"the server ended the connection: {error}"))

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()


def _is_whole(response: bytes) -> bool:
    end = response.find(b"\r\n\r\n")
    if end < 0:
        return False
    if response[9:12] == b"204":
        return True
    head = response[:end].lower()
    length = head.find(b"content-length:")
    if length < 0:
        return response.endswith(b"0\r\n\r\n")
    return len(response) >= end + 4 + int(head[length + 15 :].split(b"\r\n", 1)[0])


class HttpLoad:
    """Requests to one server, over as many connections as there are requests at a time."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        host, _, port = endpoint.rpartition(":")
        self._address = host, int(port)
        self._free: list[Connection] = []

    async def request(self, head: bytes, body: bytes = b"", *, expected: bytes) -> None:
        """One request and its response. Raises ``HttpLoadFailed`` for another status."""
        connection = await self._take()
        await connection.send(head + body, expected)
        self._free.append(connection)

    async def _take(self) -> Connection:
        while self._free:
            free = self._free.pop()
            if free.is_open:
                return free
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        return connection

    def close(self) -> None:
        """End all connections."""
        for connection in self._free:
            connection.close()

    def head(self, method: str, path: str, *, content_type: str = "", length: int = 0) -> bytes:
        """The head of a request."""
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        size = f"Content-Length: {length}\r\n" if method in ("PUT", "POST") else ""
        return f"{method} {path} HTTP/1.1\r\nHost: {self.endpoint}\r\n{kind}{size}\r\n".encode()


class _Reader(asyncio.Protocol):
    """One connection that reads events, and notes when it got the one that is looked for."""

    __slots__ = ("_audience", "_rest", "_sought", "_transport", "ready")

    def __init__(self, audience: "Audience") -> None:
        self._audience = audience
        self._rest = b""
        self._sought = b"upToDate"
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)

    def open(self, request: bytes) -> "asyncio.Future[None]":
        """Begin to read. The future is done when all that was there has come."""
        assert self._transport is not None
        assert self.ready is not None
        self._transport.write(request)
        return self.ready

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        now = time.perf_counter()
        data = self._rest + data
        if self.ready is not None:
            if not self.ready.done() and self._audience.caught_up in data:
                self.ready.set_result(None)
                self.ready = None
                data = b""
            self._rest = data[-1000:]
            return
        sought = self._audience.sought
        self._rest = data[1 - len(sought) :]
        if sought in data:
            self._audience.has(now)

    def connection_lost(self, error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._audience.lost(self, error)

    def close(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.abort()


class Audience:
    """Connections that read server-sent events, and when each of them had the event that is looked for."""

    caught_up: Final = b'"upToDate":true'

    def __init__(self, load: HttpLoad) -> None:
        self.sought = b"\n\n\n"
        self._load = load
        self._readers: list[_Reader] = []
        self._came: list[float] = []
        self._all: asyncio.Future[None] | None = None

    async def gather(self, paths: Sequence[str]) -> Window:
        """Have one reader of each path, in addition to those of them that are there; the window is of the new ones."""
        took: list[float] = []
        began = time.perf_counter()
        missing = iter(paths[len(self._readers) :])
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONNECTING):
                group.create_task(self._open(missing, took))
        took.sort()
        elapsed = time.perf_counter() - began
        return Window(len(took), elapsed, percentile(took, 50), percentile(took, 99)) if took else Window(0, 0, 0, 0)

    async def _open(self, paths: Iterator[str], took: list[float]) -> None:
        host, _, port = self._load.endpoint.rpartition(":")
        for path in paths:
            began = time.perf_counter()
            _, reader = await asyncio.get_running_loop().create_connection(lambda: _Reader(self), host, int(port))
            request = self._load.head("GET", path)
            async with asyncio.timeout(_PATIENCE):
                await reader.open(request)
            self._readers.append(reader)
            took.append(time.perf_counter() - began)

    def seek(self, sought: bytes) -> None:
        """Look for an event with these bytes in it from now on."""
        self.sought = sought
        self._came = []
        self._all = asyncio.get_running_loop().create_future()

    def has(self, now: float) -> None:
        """A reader has the event."""
        self._came.append(now)
        if len(self._came) == len(self._readers) and self._all is not None and not self._all.done():
            self._all.set_result(None)

    async def wait(self) -> list[float]:
        """The times at which the readers had the event, once all have it. Raises ``HttpLoadFailed``."""
        assert self._all is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._all
        except TimeoutError:
            raise HttpLoadFailed(f"only {len(self._came)} of {len(self._readers)} readers got an event") from None
        return self._came

    def lost(self, reader: _Reader, error: Exception | None) -> None:
        """A reader's connection has ended."""
        failure = HttpLoadFailed(f"the server ended the connection of a reader: {error}")
        for waiting in (reader.ready, self._all):
            if waiting is not None and not waiting.done():
                waiting.set_exception(failure)

    def close(self) -> None:
        """Let all readers go."""
        self._all = None
        for reader in self._readers:
            reader.close()
        self._readers = []
