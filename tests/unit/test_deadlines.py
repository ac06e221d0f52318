import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.deadlines import Deadlines
from tests.unit.fakes import LoopTime


@pytest.fixture
def expired() -> list[int]:
    return []


@pytest.fixture
async def deadlines(loop_time: LoopTime, expired: list[int]) -> Deadlines:
    return Deadlines(asyncio.get_running_loop(), expired.append)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 300.0, 1e6])
async def test_a_deadline_is_never_early_and_hardly_late(
    deadlines: Deadlines, loop_time: LoopTime, expired: list[int], seconds: float
) -> None:
    before = loop_time.now()
    slot = deadlines.add(1, seconds)
    assert before + seconds <= slot <= loop_time.now() + seconds + max(seconds / 128, 0.008) + 1e-6
    await loop_time.jump(seconds * 1.01 + 0.02)
    assert expired == [1]


async def test_nothing_expires_before_its_time(deadlines: Deadlines, loop_time: LoopTime, expired: list[int]) -> None:
    deadlines.add(1, 1000)
    await loop_time.jump(900)
    assert expired == []
    await loop_time.jump(120)
    assert expired == [1]


async def test_a_discarded_call_does_not_expire(deadlines: Deadlines, loop_time: LoopTime, expired: list[int]) -> None:
    slots = {call: deadlines.add(call, 100) for call in range(10)}
    for call in range(0, 10, 2):
        deadlines.discard(call, slots[call])
    deadlines.discard(99, slots[1])
    deadlines.discard(1, -1.0)
    await loop_time.jump(200)
    assert sorted(expired) == [1, 3, 5, 7, 9]


async def test_a_shorter_deadline_that_comes_later_expires_first(
    deadlines: Deadlines, loop_time: LoopTime, expired: list[int]
) -> None:
    deadlines.add(1, 1000)
    deadlines.add(2, 1)
    deadlines.add(3, 100)
    await loop_time.jump(2)
    assert expired == [2]
    await loop_time.jump(100)
    assert expired == [2, 3]
    await loop_time.jump(1000)
    assert expired == [2, 3, 1]


async def test_a_call_may_be_added_while_others_expire(loop_time: LoopTime) -> None:
    expired: list[int] = []

    def expire(call: int) -> None:
        expired.append(call)
        if call < 3:
            chained.add(call + 1, 10)

    chained = Deadlines(asyncio.get_running_loop(), expire)
    chained.add(1, 10)
    for _ in range(4):
        await loop_time.jump(11)
    assert expired == [1, 2, 3]


async def test_closed_deadlines_never_expire(deadlines: Deadlines, loop_time: LoopTime, expired: list[int]) -> None:
    deadlines.add(1, 10)
    deadlines.close()
    await loop_time.jump(100)
    assert expired == []


async def test_one_call_that_fails_to_expire_does_not_stop_the_others(loop_time: LoopTime) -> None:
    expired: list[int] = []
    seen: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context))

    def expire(call: int) -> None:
        if call == 1:
            raise RuntimeError("a bug")
        expired.append(call)

    deadlines = Deadlines(loop, expire)
    deadlines.add(1, 10)
    deadlines.add(2, 20)
    await loop_time.jump(11)
    await loop_time.jump(20)
    deadlines.add(3, 50)
    await loop_time.jump(60)
    assert expired == [2, 3]


@given(st.lists(st.tuples(st.floats(0.01, 5000), st.booleans()), max_size=30))
def test_exactly_what_was_not_discarded_expires_in_time(calls: list[tuple[float, bool]]) -> None:
    async def run() -> None:
        expired: list[int] = []
        time = LoopTime(asyncio.get_running_loop())
        deadlines = Deadlines(asyncio.get_running_loop(), expired.append)
        slots = [deadlines.add(call, seconds) for call, (seconds, _) in enumerate(calls)]
        for call, (_, kept) in enumerate(calls):
            if not kept:
                deadlines.discard(call, slots[call])
        await time.jump(6000)
        assert sorted(expired) == [call for call, (_, kept) in enumerate(calls) if kept]
        assert expired == sorted(expired, key=slots.__getitem__)
        deadlines.close()

    asyncio.run(run())
