"""Appends that come while others are under way: together, but each for itself."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from actors.errors import ClusterUnavailable, MailboxFull
from cluster import Silo
from cluster.gateway.streams import appender as module
from cluster.gateway.streams.appender import Appender
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_state import Appended, Creation, Write
from tests.gateway.http_client import Gateway


@pytest.fixture
async def silo(tmp_path: Path) -> AsyncIterator[Silo]:
    async with Silo([], store=f"sqlite:///{tmp_path}/state.db", http="127.0.0.1:0") as silo:
        await Stream.ref("s").create(Creation("s", content_type="text/plain"))
        yield silo


def text(body: str) -> Write:
    return Write(body.encode(), "text/plain")


async def append_all(appender: Appender, writes: list[Write]) -> list[Appended]:
    """All at the same time; the first goes at once, so the others wait for it."""
    return await asyncio.gather(*(appender.append("s", write) for write in writes))


async def read(silo: Silo) -> bytes:
    assert silo.http is not None
    return (await Gateway(silo.http).get("s", "offset=-1")).body


@pytest.fixture
def turns() -> Iterator[list[int]]:
    """How many writes went in each message to a stream."""
    found: list[int] = []
    stream = module._stream

    class Counting:
        def __init__(self, path: str) -> None:
            self._stream = stream(path)

        async def append(self, writes: list[Write]) -> list[Appended]:
            found.append(len(writes))
            return await self._stream.append(writes)

    with patch.object(module, "_stream", Counting):
        yield found


async def test_those_that_wait_share_a_turn_and_keep_their_order(silo: Silo, turns: list[int]) -> None:
    outcomes = await append_all(Appender(), [text(f"{number} ") for number in range(100)])
    assert [(outcome.code, outcome.next) for outcome in outcomes] == [("ok", number) for number in range(1, 101)]
    assert turns == [1, 99]
    assert await read(silo) == b"".join(b"%d " % number for number in range(100))


async def test_a_refused_write_takes_no_other_with_it(silo: Silo) -> None:
    writes = [
        text("first "),
        Write(b"[]", "application/json"),
        Write(b"a", "text/plain", producer=("p", 0, 0)),
        Write(b"a", "text/plain", producer=("p", 0, 0)),
        Write(b"c", "text/plain", producer=("p", 0, 2)),
        Write(b"b", "text/plain", producer=("p", 0, 1)),
        Write(b"2", "text/plain", seq="2"),
        Write(b"1", "text/plain", seq="1"),
        Write(b" last", "text/plain", close=True),
        text("behind the end"),
        Write(b"", close=True),
    ]
    outcomes = await append_all(Appender(), writes)
    codes = ["ok", "conflict", "ok", "duplicate", "gap", "ok", "ok", "conflict", "ok", "closed", "duplicate"]
    assert [outcome.code for outcome in outcomes] == codes
    assert [outcome.next for outcome in outcomes] == [1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5]
    assert [outcome.closed for outcome in outcomes] == [False] * 8 + [True] * 3
    assert await read(silo) == b"first ab2 last"


async def test_those_who_do_not_wait_any_more_harm_nobody(silo: Silo) -> None:
    appender = Appender()
    waits = [asyncio.create_task(appender.append("s", text(f"{number} "))) for number in range(6)]
    await asyncio.sleep(0)
    waits[0].cancel()
    waits[3].cancel()
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [isinstance(outcome, Appended) for outcome in outcomes] == [False, True, True, False, True, True]
    written = await read(silo)
    assert [number for number in range(6) if b"%d " % number in written] == list(range(6))


async def test_large_ones_go_in_several_turns(silo: Silo, turns: list[int]) -> None:
    outcomes = await append_all(Appender(), [text(str(number) * 400_000) for number in range(7)])
    assert [outcome.next for outcome in outcomes] == list(range(1, 8))
    assert turns == [1, 2, 2, 2]


async def test_all_hear_that_the_stream_cannot_be_reached_and_later_ones_go_on(silo: Silo) -> None:
    appender = Appender()
    calls = itertools.count()
    stream = module._stream("s")

    class Failing:
        async def append(self, writes: list[Write]) -> list[Appended]:
            await asyncio.sleep(0)
            if next(calls) < 2:
                raise ClusterUnavailable("not now")
            return await stream.append(writes)

    with patch.object(module, "_stream", lambda _: Failing()):
        waits = [asyncio.create_task(appender.append("s", text("x"))) for _ in range(5)]
        failed = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(outcome) for outcome in failed] == [ClusterUnavailable] * 5
        assert (await appender.append("s", text("y"))).next == 1
    assert appender._queues == {}
    assert appender._tasks == set()


async def test_nobody_waits_for_ever_behind_others(silo: Silo) -> None:
    appender = Appender()
    with patch.object(module, "PATIENCE", -1.0):
        outcomes = await asyncio.gather(
            *(appender.append("s", text(f"{number} ")) for number in range(4)), return_exceptions=True
        )
    assert isinstance(outcomes[0], Appended)
    for outcome in outcomes[1:]:
        assert isinstance(outcome, ClusterUnavailable)
    assert await read(silo) == b"0 "
    assert appender._queues == {}
    assert appender._waiting_bytes == 0


async def test_what_waits_is_bounded(silo: Silo) -> None:
    appender = Appender()
    with patch.object(module, "_MOST_WAITING_BYTES", 10):
        outcomes = await asyncio.gather(
            *(appender.append("s", text("12345")) for _ in range(5)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [Appended] * 3 + [MailboxFull] * 2
    assert await read(silo) == b"12345" * 3


async def test_writers_over_http_get_an_offset_each(silo: Silo) -> None:
    assert silo.http is not None
    gateway = Gateway(silo.http)
    responses = await asyncio.gather(
        *(gateway.post("s", f"{number:03} ", Content_Type="text/plain") for number in range(60))
    )
    assert {response.status for response in responses} == {204}
    placed = sorted((response.next_offset, f"{number:03} ") for number, response in enumerate(responses))
    assert len({offset for offset, _ in placed}) == 60
    assert (await gateway.get("s", "offset=-1")).body == "".join(piece for _, piece in placed).encode()


async def test_a_stream_that_is_not_there_is_told_to_each(silo: Silo) -> None:
    appender = Appender()
    outcomes = await asyncio.gather(*(appender.append("nobody", text("x")) for _ in range(3)))
    assert [outcome.code for outcome in outcomes] == ["missing"] * 3
