"""What is over is gone at once. A turn that waited for long is in the collector's oldest generation, which is looked
through so rarely that turns left to it would fill the memory of a silo under load."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar

import pytest

from actors import Actor, ActorError, TurnInterrupted, actor_ref, handler
from actors.journal import Journal
from actors.steering import Steering
from actors.turn import Turn
from actors.view import View
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until

KINDS = (Turn, Journal, Steering, View)


@dataclass
class Sums:
    total: int = 0


class Clerk(Actor, channel_retention=None):
    reached: ClassVar[asyncio.Event]
    hang: ClassVar[asyncio.Event]

    state: Sums

    @handler
    async def at_once(self) -> int:
        return 1

    @handler
    async def change(self) -> int:
        self.state.total += 1
        return self.state.total

    @handler
    async def suspend(self) -> int:
        await asyncio.sleep(0)
        return 1

    @handler
    async def steps(self) -> int:
        self.state.total = await self.step("first", self._body)
        second: int = await self.step("second", self._body)
        return second

    @handler
    async def fail(self) -> None:
        await self.step("first", self._body)
        raise ValueError("no")

    @handler
    async def fail_in_a_step(self) -> None:
        async def body() -> None:
            raise ValueError("no")

        await self.step("first", body)

    @handler
    async def write(self) -> str:
        return "".join([piece async for piece in self.stream_step("story", self._pieces, channel="story")])

    @handler
    async def wait(self) -> int:
        await self.step("first", self._body)
        self.reached.set()
        await self.hang.wait()
        return 1

    @handler
    async def signalled(self) -> object:
        return await self.wait_for("go", timeout=5)

    @handler
    async def steered(self) -> list[object]:
        self.reached.set()
        await self.hang.wait()
        return [message async for message in self.steering()]

    @handler
    async def set_timer(self) -> None:
        self.timer(self._tick, after=0.001)

    async def _tick(self) -> None:
        self.reached.set()

    @handler(readonly=True)
    async def look(self) -> int:
        await asyncio.sleep(0)
        return self.state.total

    @handler(control=True)
    async def beside(self) -> int:
        self.state.total += 1
        return self.state.total

    @handler
    async def items(self) -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def _body(self) -> int:
        await asyncio.sleep(0)
        return 1

    async def _pieces(self) -> AsyncIterator[str]:
        yield "a"
        yield "b"


REF = Clerk.ref("1")


async def interrupted() -> None:
    call = asyncio.ensure_future(REF.wait())
    await Clerk.reached.wait()
    await REF.interrupt("enough")
    with suppress(TurnInterrupted):
        await call


async def signalled() -> None:
    call = asyncio.ensure_future(REF.signalled())
    await settle()
    await REF.signal("go", 7)
    await call


async def steered() -> None:
    call = asyncio.ensure_future(REF.steered())
    await Clerk.reached.wait()
    also = asyncio.ensure_future(REF.options(on_busy="steer").ask("and this"))
    await settle()
    Clerk.hang.set()
    await call
    with suppress(ActorError):
        await also


async def timer() -> None:
    await REF.set_timer()
    await Clerk.reached.wait()


async def read_to_its_end() -> None:
    assert [item async for item in REF.items.stream()] == [0, 1, 2]


async def left() -> None:
    async for _ in REF.items.stream():
        break


async def refused(what: Callable[[], Awaitable[object]]) -> None:
    with suppress(ActorError):
        await what()


WAYS: dict[str, Callable[[], Awaitable[object]]] = {
    "at once": REF.at_once,
    "change": REF.change,
    "suspend": REF.suspend,
    "steps": REF.steps,
    "fail": lambda: refused(REF.fail),
    "fail in a step": lambda: refused(REF.fail_in_a_step),
    "stream step": REF.write,
    "send": REF.steps.send,
    "keyed": lambda: REF.options(idempotency_key="once").steps(),
    "look": REF.look,
    "beside": REF.beside,
    "interrupted": interrupted,
    "signalled": signalled,
    "steered": steered,
    "timer": timer,
    "stream": read_to_its_end,
    "a stream that is left": left,
    "no such handler": lambda: refused(lambda: actor_ref("clerk-1").ask("x")),
}


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left_over() -> list[object]:
    return [found for found in gc.get_objects() if isinstance(found, KINDS)]


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_over_is_gone_without_the_collector(
    loop_time: LoopTime, start: Start, store: ScriptedStore, way: str
) -> None:
    Clerk.reached, Clerk.hang = asyncio.Event(), asyncio.Event()
    start(Clerk, store=store)
    await soon(REF.at_once())
    await settle()
    with no_collector():
        before = len(left_over())
        await soon(asyncio.ensure_future(WAYS[way]()))
        await loop_time.jump(60)  # asyncio's own loop keeps timers that were cancelled, with their contexts
        await until(lambda: len(left_over()) <= before, f"nothing is left of: {way}")
