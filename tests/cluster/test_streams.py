"""Streams between silos: every item in order, no more than the reader has room for, and an end that is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest

from actors import actor_ref
from actors.errors import ActorFailed, ConnectionLost, Timeout
from cluster import Silo, connect
from tests.cluster.house import House, calling_from
from tests.cluster.house_actors import OutOfInk
from tests.cluster.waiting import answered, eventually

FAR = "fountain-n2.a"


@pytest.fixture
async def pair(house: House) -> tuple[Silo, Silo]:
    n1, n2 = await house.start("n1", "n2", lease_ttl=2)
    return n1, n2


@pytest.fixture(params=["silo", "client through its host", "client through a gateway"])
async def caller(request: pytest.FixtureRequest, house: House, pair: tuple[Silo, Silo]) -> AsyncIterator[str]:
    """Whoever reads a stream of an actor on n2."""
    n1, n2 = pair
    if request.param == "silo":
        with calling_from(n1):
            yield request.param
        return
    gateway = n2 if "host" in request.param else n1
    with calling_from(await house.client(gateway.grpc)):
        yield request.param


def held_streams(*silos: Silo) -> int:
    """What the silos still keep for readers of streams."""
    return sum(len(silo.runtime.streams) for silo in silos)


async def test_every_item_once_and_in_order(caller: str, pair: tuple[Silo, Silo]) -> None:
    items = [item async for item in actor_ref(FAR).drops.stream(1_000)]
    assert items == list(range(1_000))
    await eventually("nothing is kept of it", lambda: held_streams(*pair) == 0)


async def test_an_actor_reads_a_stream_of_an_actor_elsewhere(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        items = await actor_ref("relay-n1.a").collect(actor_ref(FAR), "drops", [300])
    assert items == list(range(300))


async def test_items_arrive_while_the_handler_runs(caller: str) -> None:
    fountain = actor_ref(FAR)
    async with aclosing(cast("Any", fountain.drops_then_wait.stream(3))) as drops:
        assert [await anext(drops) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(drops)


async def test_a_reader_that_stops_reading_holds_up_the_handler(caller: str, pair: tuple[Silo, Silo]) -> None:
    """Memory stays bounded, also where a gateway stands between: it may not read ahead for the client."""
    fountain = actor_ref(FAR)
    async with aclosing(cast("Any", fountain.drops.stream(100_000))) as drops:
        assert await anext(drops) == 0
        made, ended = await steady(fountain)
        assert not ended
        assert made < 300, f"{made} items were made for a reader that took one"
        for number in range(1, 500):
            assert await anext(drops) == number
        made, _ = await steady(fountain)
        assert 500 <= made < 800


async def test_large_items_take_more_of_the_room(caller: str) -> None:
    """64 items of 1 MiB each would be a lot to hold: the credit counts bytes, too."""
    fountain = actor_ref(FAR)
    async with aclosing(cast("Any", fountain.drops.stream(500, 2**20))) as drops:
        assert len(await anext(drops)) == 2**20
        made, ended = await steady(fountain)
        assert not ended
        assert made < 30, f"{made} MiB were made for a reader that took one"


async def steady(fountain: Any) -> tuple[int, bool]:
    """How far the handler is, once it goes no further."""
    before: tuple[int, bool] = (-1, False)
    same = 0
    for _ in range(500):
        now = cast("tuple[int, bool]", tuple(await fountain.progress()))
        same = same + 1 if now == before else 0
        before = now
        if same >= 20:
            return now
        await asyncio.sleep(0.005)
    raise AssertionError(f"it never came to rest: {before}")


async def test_a_reader_that_leaves_stops_the_sending_and_not_the_handler(caller: str, pair: tuple[Silo, Silo]) -> None:
    fountain = actor_ref(FAR)
    async with aclosing(cast("Any", fountain.drops.stream(5_000))) as drops:
        assert await anext(drops) == 0
    await eventually("the handler runs to its end", lambda: _reached(fountain, 5_000))
    await eventually("nothing is kept of it", lambda: held_streams(*pair) == 0)
    assert [item async for item in fountain.drops.stream(3)] == [0, 1, 2], "the actor is free"


async def _reached(fountain: Any, made: int) -> bool:
    return tuple(await fountain.progress()) == (made, True)


async def test_a_reader_that_is_cancelled_leaves(caller: str, pair: tuple[Silo, Silo]) -> None:
    fountain = actor_ref(FAR)

    async def read() -> None:
        async for _ in fountain.drops_then_wait.stream(1):
            first.set()

    first = asyncio.Event()
    reading = asyncio.create_task(read())
    await first.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await eventually("nothing is kept of it", lambda: held_streams(*pair) == 0)


async def test_a_client_that_vanishes_frees_the_handler(house: House, pair: tuple[Silo, Silo]) -> None:
    """It dies without a word in the middle of a stream through a gateway."""
    n1, n2 = pair
    client = connect(n1.grpc, cluster=house.cluster)
    async with client:
        drops = cast("Any", actor_ref(FAR).drops.stream(5_000))
        assert await anext(drops) == 0
        assert client._transport is not None
        for link in client._transport.links:
            link.end("the test cuts it")
        with pytest.raises(ConnectionLost):
            while True:
                await anext(drops)
    with calling_from(n2):
        await eventually("the handler runs to its end", lambda: _reached(actor_ref(FAR), 5_000))
    await eventually("nothing is kept of it", lambda: held_streams(n1, n2) == 0)


async def test_a_failure_comes_behind_the_items_before_it(caller: str) -> None:
    seen = []
    with pytest.raises(ActorFailed, match="fountain-n2.a.break_after raised") as failed:
        async for item in actor_ref(FAR).break_after.stream(100):
            seen.append(item)  # noqa: PERF401  # what came before the failure has to be kept
    assert seen == list(range(100))
    assert isinstance(failed.value.__cause__, OutOfInk)


async def test_the_timeout_is_for_each_item(caller: str) -> None:
    seen = []
    with pytest.raises(Timeout):
        async for item in actor_ref(FAR).options(timeout=0.3).drops_then_wait.stream(5):
            seen.append(item)  # noqa: PERF401  # as above
    assert seen == [0, 1, 2, 3, 4]


async def test_the_host_dies_in_the_middle(caller: str, pair: tuple[Silo, Silo]) -> None:
    seen = []
    with pytest.raises(ConnectionLost):
        async for item in actor_ref(FAR).drops_then_wait.stream(3):
            seen.append(item)
            if len(seen) == 3:
                await pair[1].abort()
    assert seen == [0, 1, 2]


async def test_the_host_dies_and_the_next_stream_comes_from_another(house: House, pair: tuple[Silo, Silo]) -> None:
    n1, n2 = pair
    async with connect([n1.grpc, n2.grpc], cluster=house.cluster):
        drops = cast("Any", actor_ref(FAR).drops_then_wait.stream(1))
        assert await anext(drops) == 0
        await n2.abort()
        with pytest.raises(ConnectionLost):
            await anext(drops)

        async def read() -> list[int]:
            return [item async for item in actor_ref(FAR).options(timeout=3).drops.stream(50)]

        items, took = await answered("a stream from n1", read, within=10)
    assert items == list(range(50))
    assert took < 2 + 3, f"{took:.1f} s with a lease of 2 s"


async def test_many_streams_at_once(caller: str) -> None:
    async def read(number: int) -> list[int]:
        return [item async for item in actor_ref(f"fountain-n2.{number}").drops.stream(200)]

    assert await asyncio.gather(*map(read, range(30))) == [list(range(200))] * 30
