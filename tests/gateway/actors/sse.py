"""A reader of server-sent events that sees every field."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.gateway.http_client import Gateway, _chunks


class Sse(NamedTuple):
    """One event as it stands on the wire. A comment has the kind ":"."""

    id: str = ""
    kind: str = ""
    data: str = ""


@asynccontextmanager
async def events(
    gateway: Gateway, address: str, query: str = "", headers: Mapping[str, str] = {}
) -> AsyncIterator[AsyncIterator[Sse]]:
    """The events of a channel, behind the one that says how soon to come again."""
    path = f"/v1/actors/{address}/events" + (f"?{query}" if query else "")
    async with gateway.opened("GET", path, headers=headers) as (status, found, reader):
        assert (status, found["content-type"]) == (200, "text/event-stream"), await reader.read(500)
        assert found["cache-control"] == "no-cache, no-transform"
        assert found["x-accel-buffering"] == "no"
        stream = parsed(_chunks(reader))
        assert await anext(stream) == Sse(kind="retry", data="1000")
        yield stream


async def parsed(chunks: AsyncIterator[bytes]) -> AsyncIterator[Sse]:
    """Cut the bytes of a response into events."""
    text = b""
    async for chunk in chunks:
        text += chunk
        while b"\n\n" in text:
            frame, _, text = text.partition(b"\n\n")
            fields = dict(line.split(b":", 1) for line in frame.decode().encode().split(b"\n"))
            told = {name.decode(): value.decode().removeprefix(" ") for name, value in fields.items()}
            if "retry" in told:
                yield Sse(kind="retry", data=told["retry"])
            elif "" in told:
                yield Sse(kind=":")
            else:
                yield Sse(told.get("id", ""), told.get("event", ""), told.get("data", ""))
