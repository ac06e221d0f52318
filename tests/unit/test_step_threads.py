import asyncio
import contextvars
import logging
import threading

import pytest

from actors import Actor, actor_ref, handler
from actors.step_threads import StepThreads
from tests.unit.conftest import Start
from tests.unit.fakes import soon

LIMIT = 20  # more than asyncio's own pool has on a small machine


async def test_steps_that_block_do_not_hold_up_each_other(start: Start) -> None:
    all_run = threading.Barrier(LIMIT + 1)

    class Blocking(Actor):
        @handler
        async def meet(self) -> str:
            await self.step("meet", all_run.wait, 20)
            return self.key

    start(Blocking)
    calls = [asyncio.ensure_future(actor_ref(f"blocking-{number}").meet()) for number in range(LIMIT)]
    await asyncio.to_thread(all_run.wait, 20)
    assert await soon(asyncio.gather(*calls)) == [str(number) for number in range(LIMIT)]


async def test_no_more_run_at_a_time_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    threads, begun, go = StepThreads(1), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go.wait(60)

    given_up = asyncio.ensure_future(threads.run("a-1", first, (), {}))
    await asyncio.to_thread(begun.wait, 60)
    second = asyncio.ensure_future(threads.run("a-2", threading.get_ident, (), {}))
    given_up.cancel()
    await asyncio.wait({given_up})
    assert not second.done()  # nobody can stop the first: it has the thread until it returns
    go.set()
    assert await soon(second) != threading.get_ident()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "a-2: a step waits for a thread" in caplog.text


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration()])
async def test_what_a_function_raises_is_raised(error: Exception) -> None:
    def fails() -> None:
        raise error

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)  # as in any coroutine
    with pytest.raises(expected):
        await soon(StepThreads(1).run("a-1", fails, (), {}))


async def test_a_function_has_the_context_of_its_step() -> None:
    variable = contextvars.ContextVar("variable", default="not set")
    variable.set("set")
    assert await soon(StepThreads(1).run("a-1", variable.get, (), {})) == "set"


async def test_the_process_does_not_wait_for_it() -> None:
    thread = await soon(StepThreads(1).run("a-1", threading.current_thread, (), {}))
    assert (thread.daemon, thread.name) == (True, "step of a-1")
