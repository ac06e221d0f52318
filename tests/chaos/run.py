"""One run: the fleet, the workload and the faults; rest; the checks."""

import asyncio
import random
import re
from collections import Counter as Counts
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Client, connect
from tests.chaos.faults import Fault, Inflictor, draw
from tests.chaos.fleet import CLUSTER, TOKEN, Fleet, StoreKind
from tests.chaos.history import History, Violation
from tests.chaos.judge import Judge
from tests.chaos.readers import ClientReader, HttpReader, Reader
from tests.chaos.workload import HERALDS, Workload
from tests.cluster.etcd.members import term_of

_WORRYING = re.compile(r"Traceback|never retrieved|was never awaited|Unhandled|AssertionError")


@dataclass(frozen=True)
class Plan:
    """What a run is made of."""

    seed: int
    seconds: float
    kinds: list[str]
    store: StoreKind = "sqlite"
    silos: int = 3
    wires: bool = True
    plant: str = ""
    rest: float = 120.0

    def faults(self) -> list[Fault]:
        return draw(self.seed, seconds=self.seconds, silos=self.silos, kinds=self.kinds)


@dataclass
class Result:
    """What came of it."""

    violations: list[Violation]
    history: History
    faults: list[Fault]
    figures: dict[str, Any] = field(default_factory=dict)


class Run:
    """Use ``run`` once. ``tell`` gets lines of progress."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.folder = folder
        self._tell = tell
        self._stack = AsyncExitStack()
        self._readers: list[Reader] = []

    async def run(self) -> Result:
        """Whatever happens, nothing of it runs any more when this returns or raises."""
        plan, faults = self.plan, self.plan.faults()
        async with self._stack:
            fleet = await self._stack.enter_async_context(
                Fleet(self.folder, silos=plan.silos, store=plan.store, wires=plan.wires, plant=plan.plant)
            )
            clients = [await self._client(fleet, first) for first in range(plan.silos)]
            history = History()
            terms = await term_of(fleet.members)
            work = Workload(history, clients, plan.seed)
            await work.start()
            self._start_readers(history, clients, fleet)
            progress = asyncio.create_task(self._report(history, work))
            self._stack.callback(progress.cancel)
            await self._inflict(fleet, faults, progress)
            self._tell(f"{history.now():7.1f} s  the faults are over")
            progress.cancel()
            await work.stop()
            healthy_from = history.now()
            found = await self._judge(work, history).verdict()
            await asyncio.gather(*(reader.stop() for reader in self._readers))
            figures = self._figures(fleet, history, healthy_from)
            figures["felt"] = _felt(fleet, history) | {"elections of etcd": await term_of(fleet.members) - terms}
            return Result(found, history, faults, figures)

    def _judge(self, work: Workload, history: History) -> Judge:
        return Judge(work, history, readers=self._readers, folder=self.folder, rest=self.plan.rest, tell=self._tell)

    async def _client(self, fleet: Fleet, first: int) -> Client:
        """One that prefers the silo of that number."""
        endpoints = [silo.endpoint for silo in fleet.silos]
        client = connect(endpoints[first:] + endpoints[:first], cluster=CLUSTER, token=TOKEN)
        return await self._stack.enter_async_context(client)

    def _start_readers(self, history: History, clients: list[Client], fleet: Fleet) -> None:
        gateways = [silo.http for silo in fleet.silos]
        for address in HERALDS:
            for number in range(3):
                rng = random.Random(f"{self.plan.seed} {address} {number}")
                if number == 2:
                    self._readers.append(HttpReader(f"http {number}", address, history, rng, gateways))
                else:
                    self._readers.append(ClientReader(f"client {number}", address, history, rng, clients))
        for reader in self._readers:
            self._stack.push_async_callback(reader.stop)
            reader.start()

    async def _inflict(self, fleet: Fleet, faults: list[Fault], progress: "asyncio.Task[None]") -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        inflicting = asyncio.create_task(Inflictor(fleet, faults, self._tell).run(begin))
        waiting = asyncio.create_task(asyncio.sleep(self.plan.seconds))
        try:
            await asyncio.wait({inflicting, progress}, return_when=asyncio.FIRST_COMPLETED)
            if progress.done():
                progress.result()
            await inflicting
            await waiting
        finally:
            inflicting.cancel()
            waiting.cancel()
            await asyncio.wait({inflicting, waiting})

    async def _report(self, history: History, work: Workload) -> None:
        """Tell how it goes. Ends if the workload is broken."""
        done = 0
        while True:
            await asyncio.sleep(10.0)
            work.raise_errors()
            ok = sum(op.outcome == "ok" for op in history.ops)
            self._tell(f"{history.now():7.1f} s  {ok} operations, {(ok - done) / 10:.0f}/s")
            done = ok

    def _figures(self, fleet: Fleet, history: History, healthy_from: float) -> dict[str, Any]:
        waits = history.unavailable()
        worrying = Counts(line.strip()[:160] for line in fleet.logs().splitlines() if _WORRYING.search(line))
        return {
            "seconds": round(healthy_from, 1),
            "seconds to rest": round(history.now() - healthy_from, 1),
            "operations": dict(Counts(op.kind for op in history.ops if op.outcome == "ok")),
            "outcomes": dict(Counts(op.outcome for op in history.ops)),
            "repeated": sum(op.attempts > 1 for op in history.ops),
            "errors": dict(history.errors.most_common()),
            "longest unavailable": {address: round(waits[address], 2) for address in sorted(waits)},
            "entries read": sum(len(reader.entries) for reader in self._readers),
            "visits of readers": sum(reader.visits for reader in self._readers),
            "starts of silos": sum(silo.starts for silo in fleet.silos),
            "faults": dict(Counts(fault.kind for fault in self.plan.faults())),
            "worrying lines of logs": dict(worrying.most_common(10)),
        }


def _felt(fleet: Fleet, history: History) -> dict[str, int]:
    """What kinds of faults that nobody else would notice have done."""
    return {
        "packets that were late": fleet.wires.detours.carried if fleet.wires is not None else 0,
        "refusals for a full disk": sum("the disk is full" in error for op in history.ops for error in op.errors),
    }
