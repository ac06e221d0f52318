"""The load on a server of the Durable Streams protocol, whoever made it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Final

from benchmarks.http_load import Audience, HttpLoad
from benchmarks.load import Call, Window, percentile
from benchmarks.peer import Caller, Peer, Place

STREAMS: Final = 100
"""How many streams "many" are."""

_ROOT: Final = "/v1/stream/bench/"
_TYPES: Final = {"json": "application/json", "text": "text/plain"}
_AT_ONCE: Final = 64


def json_body(number: int) -> bytes:
    """A JSON message of 100 bytes; no two of a run are the same."""
    return b'{"n":"%010d","role":"assistant","text":"a delta of an answer, as models make them, one by one"}' % number


def text_body(number: int) -> bytes:
    """Text of 100 bytes."""
    return b"%010d a delta of an answer, as models make them, one by one, until there is no more of it now.\n" % number


_BODIES: Final = {"json": json_body, "text": text_body}


class StreamsPeer(Peer):
    """A server of the protocol; a subclass says how to start it."""

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """Streams to append to, and whoever shall read them."""
        load = HttpLoad(place.endpoints[0])
        fan_out = _FanOut(load)
        try:
            for kind, content_type in _TYPES.items():
                for number in range(STREAMS):
                    await _create(load, f"{kind}-{number}", content_type)
            works = {
                f"{kind}_{name}": _append(load, kind, streams)
                for kind in _TYPES
                for name, streams in (("one", 1), ("many", STREAMS))
            }
            runs = (fan_out.create, fan_out.subscribe_one, fan_out.subscribe_many, fan_out.publish, fan_out.announce)
            yield Caller(works, runs={run.__name__: run for run in runs})
        finally:
            fan_out.close()
            load.close()


async def _create(load: HttpLoad, name: str, content_type: str) -> None:
    await load.request(load.head("PUT", _ROOT + name, content_type=content_type), expected=b"201")


def _append(load: HttpLoad, kind: str, streams: int) -> Call:
    body_of, length = _BODIES[kind], len(_BODIES[kind](0))
    heads = [
        load.head("POST", f"{_ROOT}{kind}-{number}", content_type=_TYPES[kind], length=length)
        for number in range(streams)
    ]

    def append(number: int) -> Awaitable[object]:
        return load.request(heads[number % streams], body_of(number), expected=b"204")

    return append


class _FanOut:
    """One who writes and many who read."""

    def __init__(self, load: HttpLoad) -> None:
        self._load = load
        self._audience = Audience(load)
        self._stream = ""
        self._number = 0

    async def create(self, count: int, _: float) -> Window:
        """Make so many streams without anything in them."""
        began = time.perf_counter()
        names = iter([f"idle-{number}" for number in range(count)])

        async def create() -> None:
            for name in names:
                await _create(self._load, name, _TYPES["json"])

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(create())
        return Window(count, time.perf_counter() - began, 0, 0)

    async def subscribe_one(self, count: int, _: float) -> Window:
        """Have so many readers of one stream."""
        return await self._subscribe(["idle-0"] * count)

    async def subscribe_many(self, count: int, _: float) -> Window:
        """Have one reader of each of so many streams."""
        return await self._subscribe([f"idle-{number}" for number in range(count)])

    async def _subscribe(self, names: Sequence[str]) -> Window:
        return await self._audience.gather([f"{_ROOT}{name}?offset=now&live=sse" for name in names])

    async def publish(self, readers: int, seconds: float) -> Window:
        """Publish one message after the other, each when all readers have the one before; times until readers have it.

        The readers stay for the next time, if there shall be as many then.
        """
        name = f"read-by-{readers}"
        if name != self._stream:
            self._stream = name
            self._audience.close()
            await _create(self._load, name, _TYPES["json"])
            await self._subscribe([name] * readers)
        took: list[float] = []
        calls = 0
        began = time.perf_counter()
        while not calls or time.perf_counter() < began + seconds:
            took += await self._tell_all(name)
            calls += 1
        elapsed = time.perf_counter() - began
        took.sort()
        return Window(calls, elapsed, percentile(took, 50), percentile(took, 99))

    async def announce(self, _: int, __: float) -> Window:
        """One message to all readers of the one stream; the window ends when the last one has it."""
        took = sorted(await self._tell_all("idle-0"))
        return Window(1, took[-1], percentile(took, 50), percentile(took, 99))

    async def _tell_all(self, name: str) -> list[float]:
        """How long it took until each of the readers had a new message, from when it was sent."""
        self._number += 1
        body = json_body(self._number)
        head = self._load.head("POST", _ROOT + name, content_type=_TYPES["json"], length=len(body))
        self._audience.seek(body[1:17])
        sent = time.perf_counter()
        await self._load.request(head, body, expected=b"204")
        return [came - sent for came in await self._audience.wait()]

    def close(self) -> None:
        """Let the readers go."""
        self._audience.close()
