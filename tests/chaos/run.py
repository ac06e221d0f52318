"""One run: the fleet, the workload and the faults; rest; the checks."""

import asyncio
import random
import re
from collections import Counter as Counts
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Client, connect
from tests.chaos import checks
from tests.chaos.counters import check_counter
from tests.chaos.faults import Fault, Inflictor, draw
from tests.chaos.fleet import CLUSTER, TOKEN, Fleet, StoreKind
from tests.chaos.history import History, Violation, check_failures
from tests.chaos.readers import ClientReader, HttpReader, Reader
from tests.chaos.town import PAID
from tests.chaos.workload import ACCOUNTS, BELLS, COUNTERS, HERALDS, Workload
from tests.cluster.durable_actors import noted
from tests.cluster.waiting import eventually

REST = 90.0
"""Seconds that everything has to come to rest when the faults are over."""
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
            work = Workload(history, clients, plan.seed)
            await work.start()
            self._start_readers(history, clients, fleet)
            progress = asyncio.create_task(self._report(history, work))
            self._stack.callback(progress.cancel)
            await self._inflict(fleet, faults, progress)
            self._tell(f"{history.now():7.1f} s  the faults are over")
            progress.cancel()
            await work.stop()
            return await self._judge(fleet, work, history, faults)

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

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _judge(self, fleet: Fleet, work: Workload, history: History, faults: list[Fault]) -> Result:
        healthy_from = history.now()
        found: list[Violation] = []
        await work.settle()
        await asyncio.gather(*(work.ask(bell, "stop", "tick") for bell in BELLS))
        found += await self._at_rest("money has arrived", lambda: self._money(work, history))
        found += await self._at_rest("reminders have rung", lambda: self._bells(work, history))
        found += await self._at_rest("readers are at the end", lambda: self._channels(work, history))
        for address in COUNTERS:
            ops = [op for op in history.ops if op.address == address]
            found += check_counter(address, ops, await work.ask(address))
        found += checks.check_settled(history.ops)
        found += checks.check_refusals(history.ops, healthy_from)
        found += check_failures(history)
        await asyncio.gather(*(reader.stop() for reader in self._readers))
        return Result(found, history, faults, self._figures(fleet, history, healthy_from))

    async def _at_rest(self, what: str, check: Callable[[], Any]) -> list[Violation]:
        """What the check finds when it finds nothing any more, or not less for a long time."""
        found: list[Violation] = []

        async def nothing() -> bool:
            found[:] = await check()
            return not found

        try:
            await eventually(what, nothing, within=REST)
        except AssertionError:
            self._tell(f"not within {REST:.0f} s: {what}")
        return found

    async def _money(self, work: Workload, history: History) -> list[Violation]:
        books: Mapping[str, Any] = {address: await work.ask(address) for address in ACCOUNTS}
        return list(checks.check_money(books, history.of("pay"), noted(self.folder, PAID)))

    async def _bells(self, work: Workload, history: History) -> list[Violation]:
        found: list[Violation] = []
        for address in BELLS:
            rings = await work.ask(address)
            found += checks.check_reminders(address, history.of("arm", address), rings.rung, rings.ticks)
            if not rings.ticks:
                found.append(Violation("a periodic reminder rings", address, "ticks", "none"))
        return found

    async def _channels(self, work: Workload, history: History) -> list[Violation]:
        found: list[Violation] = []
        for address in HERALDS:
            spoken = await work.ask(address)
            readers = {reader.name: reader.entries for reader in self._readers if reader.address == address}
            found += checks.check_channel(address, readers, spoken.said, spoken.told)
            found += checks.check_effects("streams", address, history.of("tell", address), spoken.told)
            said = sum(int(str(op.args[0])) for op in history.of("say", address) if op.outcome == "ok")
            if all(op.outcome in ("ok", "rejected") for op in history.of("say", address)) and said != spoken.said:
                found.append(Violation("accepted takes effect once", address, f"{said} items", str(spoken.said)))
        return found

    def _figures(self, fleet: Fleet, history: History, healthy_from: float) -> dict[str, Any]:
        slowest = history.slowest()
        worrying = Counts(line.strip()[:160] for line in fleet.logs().splitlines() if _WORRYING.search(line))
        return {
            "seconds": round(healthy_from, 1),
            "seconds to rest": round(history.now() - healthy_from, 1),
            "operations": dict(Counts(op.kind for op in history.ops if op.outcome == "ok")),
            "outcomes": dict(Counts(op.outcome for op in history.ops)),
            "repeated": sum(op.attempts > 1 for op in history.ops),
            "errors": dict(history.errors.most_common()),
            "longest wait": {address: round(slowest[address], 2) for address in sorted(slowest)},
            "entries read": sum(len(reader.entries) for reader in self._readers),
            "visits of readers": sum(reader.visits for reader in self._readers),
            "starts of silos": sum(silo.starts for silo in fleet.silos),
            "faults": dict(Counts(fault.kind for fault in self.plan.faults())),
            "worrying lines of logs": dict(worrying.most_common(10)),
        }
