"""How a silo process ends, whatever its actors do."""

import asyncio
import signal
from pathlib import Path

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
