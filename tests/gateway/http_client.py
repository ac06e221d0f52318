"""The smallest HTTP client that lets a test say exactly what goes over the wire."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class Response(NamedTuple):
    """A whole response; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def next_offset(self) -> str:
        return self.headers["stream-next-offset"]


class Gateway:
    """A silo's HTTP port."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def __call__(
        self, method: str, path: str, body: bytes | str = b"", headers: Headers = (), *, within: float = 20.0
    ) -> Response:
        """Send a request and read the response to its end."""
        data = body.encode() if isinstance(body, str) else body
        async with asyncio.timeout(within), self.opened(method, path, data, headers) as (status, found, reader):
            if found.get("transfer-encoding") == "chunked":
                return Response(status, found, b"".join([chunk async for chunk in _chunks(reader)]))
            length = 0 if method == "HEAD" or status in (204, 304) else int(found.get("content-length", 0))
            return Response(status, found, await reader.readexactly(length))

    async def put(self, name: str, body: bytes | str = b"", **headers: str) -> Response:
        return await self("PUT", f"/v1/stream/{name}", body, _named(headers))

    async def post(self, name: str, body: bytes | str = b"", **headers: str) -> Response:
        return await self("POST", f"/v1/stream/{name}", body, _named(headers))

    async def get(self, name: str, query: str = "", **headers: str) -> Response:
        return await self("GET", f"/v1/stream/{name}" + (f"?{query}" if query else ""), b"", _named(headers))

    async def delete(self, name: str) -> Response:
        return await self("DELETE", f"/v1/stream/{name}")

    @asynccontextmanager
    async def opened(
        self, method: str, path: str, body: bytes = b"", headers: Headers = ()
    ) -> AsyncIterator[tuple[int, dict[str, str], asyncio.StreamReader]]:
        """A request whose response has begun."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", "Connection: close"]
        if not any(name.lower() == "host" for name, _ in pairs):
            lines.append(f"Host: {self.address}")
        lines += [f"{name}: {value}" for name, value in pairs]
        raw = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body
        async with self.connected(raw) as reader:
            status_line = await reader.readline()
            if not status_line:
                raise ConnectionError(f"{method} {path}: the connection was closed without a response")
            status = int(status_line.split()[1])
            found: dict[str, str] = {}
            while line := (await reader.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                found[name.lower()] = value.strip()
            yield status, found, reader

    @asynccontextmanager
    async def connected(self, raw: bytes) -> AsyncIterator[asyncio.StreamReader]:
        """A connection on which these bytes were sent."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
        try:
            writer.write(raw)
            await writer.drain()
            yield reader
        finally:
            writer.close()

    @asynccontextmanager
    async def events(self, name: str, query: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """The server-sent events of a stream, as (event, data)."""
        async with self.opened("GET", f"/v1/stream/{name}?{query}&live=sse") as (status, headers, reader):
            assert (status, headers["content-type"]) == (200, "text/event-stream")
            yield _events(reader)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := await _chunk_size(reader):
        yield await reader.readexactly(size)
        await reader.readline()


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    if not line:
        raise ConnectionError("the response was broken off")
    return int(line, 16)


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, str]]:
    text = b""
    async for chunk in _chunks(reader):
        text += chunk
        while b"\n\n" in text:
            frame, _, text = text.partition(b"\n\n")
            fields = [line.partition(b":") for line in frame.split(b"\n")]
            name = b"".join(value.strip() for field, _, value in fields if field == b"event")
            data = b"\n".join(value for field, _, value in fields if field == b"data")
            if name:
                yield name.decode(), data.decode()
