"""A Ray actor whose process is killed under load, for ``benchmarks.failover``.

``python -m benchmarks.ray_restarts <Restarts as JSON>`` says Ready, then Tried for each kill, and ends.
"""

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import ray

from benchmarks.failing_over import LEAD, PATIENCE, Caller, Fault, Load, sum_up, until
from benchmarks.peer import Answer, Ready
from benchmarks.worker import answer_with, open_answers
from cluster.serve import run

_HOME = "the actor"
_OBJECT_STORE = 100 * 2**20


class Restarts(msgspec.Struct):
    """How often it is killed, and who calls it."""

    kills: int
    load: Load


class Resident:
    """Counts visits by key. One async actor stands for all that a silo hosts: each Ray actor is a process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    async def visit(self, key: str) -> tuple[int, int, int]:
        """How many visits there were, and the process. Ray does not tell how often a call was sent before."""
        self._counts[key] += 1
        return self._counts[key], os.getpid(), 0


async def measure(restarts: Restarts, say: Callable[[Answer], None]) -> int:
    """Kill it again and again. Ray restarts it and repeats the calls that were under way, both without limit."""
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Resident)
    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=_OBJECT_STORE)
    try:
        actor, numbers = remote.remote(), itertools.count()
        await actor.visit.remote("warm-up")
        say(answer_with(Ready()))
        for _ in range(restarts.kills):
            callers = [_caller(actor, f"{next(numbers)}", restarts.load) for _ in range(restarts.load.callers)]
            enough = asyncio.Event()
            asking = [asyncio.create_task(caller.run(enough, start_after=0.0)) for caller in callers]
            await until("every caller has an answer", lambda callers=callers: all(one.answers for one in callers))
            await asyncio.sleep(LEAD)
            process, began = callers[0].answers[-1].process, time.perf_counter()
            os.kill(process, signal.SIGKILL)
            back = [caller.back_at for caller in callers]
            await until("it is back", lambda at=began, pid=process, back=back: all(has(at, pid) for has in back))
            await asyncio.sleep(LEAD)
            ended = time.perf_counter()
            enough.set()
            await asyncio.gather(*asking)
            say(answer_with(sum_up(Fault.KILL, callers, began=began, ended=ended, victim=_HOME, process=process)))
    finally:
        ray.shutdown()
    return 0


def _caller(actor: "ray.actor.ActorHandle[Resident]", key: str, load: Load) -> Caller:
    async def visit() -> tuple[int, int, int]:
        async with asyncio.timeout(PATIENCE):
            count, process, attempt = await actor.visit.remote(key)
        return count, process, attempt

    return Caller(_HOME, visit, interval=load.interval, errors=Exception)


def _exit_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    _restarts = msgspec.json.decode(sys.argv[1], type=Restarts)
    _say = open_answers()
    sys.exit(run(lambda: measure(_restarts, _say)))
