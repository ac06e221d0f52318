"""How a silo process ends, whatever its actors do."""

import asyncio
import signal
from pathlib import Path

import pytest

from actors import actor_ref
from cluster import connect
from tests.cluster.processes import Processes
from tests.cluster.waiting import eventually

STUBBORN = """
import asyncio
from actors import Actor, handler

class Stubborn(Actor):
    @handler
    async def stay(self):
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                pass

    @handler(readonly=True)
    async def busy(self):
        return self._activation.busy
"""


async def test_a_handler_that_cannot_be_cancelled_does_not_keep_the_process(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    silo = processes.start("start", "stubborn.py", "--listen", "127.0.0.1:0", "--drain-limit", "0.2")
    (ready,) = await silo.ready()
    async with connect(ready["grpc"]):
        call = asyncio.ensure_future(actor_ref("stubborn-1").stay())
        await eventually("the turn runs", actor_ref("stubborn-1").busy)
        silo.signal(signal.SIGTERM)
        ended = await silo.ended()
        await asyncio.gather(call, return_exceptions=True)
    assert ended.status == 0
    assert "will not be cancelled" in ended.err


BLOCKING = """
import asyncio
import sys
import time
from actors import Actor, handler

def told(seconds):
    print("it is blocked", file=sys.stderr, flush=True)
    time.sleep(seconds)

class Blocking(Actor):
    @handler
    async def step_in_a_thread(self):
        await self.step("wait", told, 3600)

    @handler
    async def in_a_thread(self):
        await asyncio.to_thread(told, 3600)

    @handler
    async def sleep(self):
        told(3600)

    @handler
    async def compute(self):
        told(0)
        while True:
            pass
"""


@pytest.mark.parametrize("handler", ["step_in_a_thread", "in_a_thread"])
async def test_what_does_not_end_in_its_thread_does_not_keep_the_process(
    processes: Processes, tmp_path: Path, handler: str
) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    silo = processes.start("start", "blocking.py", "--listen", "127.0.0.1:0", "--drain-limit", "0.2")
    (ready,) = await silo.ready()
    async with connect(ready["grpc"]):
        call = asyncio.ensure_future(getattr(actor_ref("blocking-1"), handler)())
        await silo.said("it is blocked")
        silo.signal(signal.SIGTERM)
        ended = await silo.ended()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert ended.status == 0
    assert ("still runs in a thread" in ended.err) == (handler == "in_a_thread")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("handler", ["sleep", "compute"])
async def test_a_second_signal_ends_it_also_while_an_actor_blocks_the_loop(
    processes: Processes, tmp_path: Path, handler: str, number: signal.Signals, status: int
) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    silo = processes.start("start", "blocking.py", "--listen", "127.0.0.1:0")
    (ready,) = await silo.ready()
    async with connect(ready["grpc"]):
        call = asyncio.ensure_future(getattr(actor_ref("blocking-1"), handler)())
        await silo.said("it is blocked")
        silo.signal(number)
        await silo.said("stopping; once more ends it at once")
        silo.signal(number)
        ended = await silo.ended()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert ended.status == status
