"""Turns that do not stop, and turns that hold up everybody, are reported by name and with where they stand."""

import asyncio
import contextlib
import logging
import threading
import time
from typing import ClassVar

import pytest

from actors import Actor, Interrupted, TurnInterrupted, actor_ref, handler
from actors.watchdog import LoopWatch
from tests.unit.conftest import Start
from tests.unit.fakes import LoopTime, ScriptedStore, settle, soon, until

REF = actor_ref("mule-1")


class Mule(Actor):
    reached: ClassVar[asyncio.Event]
    go: ClassVar[asyncio.Event]
    free: ClassVar[threading.Event]

    @handler
    async def swallow(self) -> str:
        while not self.go.is_set():
            with contextlib.suppress(Interrupted):
                await self._stand_still()
        return "at last"

    async def _stand_still(self) -> None:
        self.reached.set()
        await self.go.wait()

    @handler
    async def in_a_step(self) -> None:
        await self.step("deaf", self._deaf)

    async def _deaf(self) -> None:
        while not self.go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self._stand_still()

    @handler
    async def block(self) -> str:
        await asyncio.sleep(0)
        self.reached.set()
        self.free.wait()
        return "free"

    @handler
    async def wait(self) -> None:
        await self.go.wait()


@pytest.fixture(autouse=True)
async def mule(loop_time: LoopTime, start: Start) -> None:
    Mule.reached, Mule.go, Mule.free = asyncio.Event(), asyncio.Event(), threading.Event()
    start(Mule, store=ScriptedStore())


@pytest.mark.parametrize("name", ["swallow", "in_a_step"])
async def test_a_turn_that_goes_on_after_an_interrupt_is_reported_and_holds_up_nobody_else(
    name: str, loop_time: LoopTime, caplog: pytest.LogCaptureFixture
) -> None:
    call = asyncio.ensure_future(getattr(REF, name)())
    await soon(Mule.reached.wait())
    await soon(REF.interrupt("enough"))
    await loop_time.jump(9)
    assert caplog.text == ""
    await loop_time.jump(2)
    assert f"mule-1.{name}: message " in caplog.text
    assert "was interrupted 10 s ago (enough) and goes on" in caplog.text
    assert "in _stand_still\n    await self.go.wait()" in caplog.text

    other = asyncio.ensure_future(actor_ref("mule-2").wait())
    await settle()
    await soon(actor_ref("mule-2").interrupt())
    with pytest.raises(TurnInterrupted):
        await soon(other)
    Mule.go.set()
    await asyncio.gather(call, return_exceptions=True)


async def test_a_turn_that_stops_is_not_reported(loop_time: LoopTime, caplog: pytest.LogCaptureFixture) -> None:
    call = asyncio.ensure_future(REF.wait())
    await settle()
    await soon(REF.interrupt("enough"))
    with pytest.raises(TurnInterrupted):
        await soon(call)
    again = asyncio.ensure_future(REF.wait())
    await loop_time.jump(11)
    assert caplog.text == ""
    Mule.go.set()
    await soon(again)


class Heard(logging.Handler):
    """Lets a blocked turn go as soon as it was reported."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if "mule-1.block" in self.lines[-1]:  # and not something else for which the machine had no time
            Mule.free.set()


async def test_a_turn_that_blocks_the_loop_is_reported_while_it_does() -> None:
    heard = Heard()
    logging.getLogger("actors").addHandler(heard)
    watch = LoopWatch(asyncio.get_running_loop(), "silo n1", limit=0.05)
    watch.start()
    try:
        assert await REF.block() == "free"
        await until(lambda: "runs again" in heard.lines[-1], "it is said that the loop runs again")
    finally:
        watch.stop()
        logging.getLogger("actors").removeHandler(heard)
    line, after = heard.lines[-2:]
    assert "silo n1: mule-1.block (message " in line
    assert "has blocked the event loop for 0." in line
    assert "self.free.wait()" in line
    assert after.startswith("silo n1: the event loop runs again, after 0.")


async def test_a_loop_that_turns_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    watch = LoopWatch(asyncio.get_running_loop(), "silo n1", limit=5.0)
    watch.start()
    started = time.monotonic()
    await until(lambda: time.monotonic() - started > 0.05, "time passes")
    watch.stop()
    assert caplog.text == ""
