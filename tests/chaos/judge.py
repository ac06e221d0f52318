"""Waits until everything has come to rest, and checks what is there then against what was asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from actors.errors import ActorError
from tests.chaos import checks
from tests.chaos.counters import check_counter
from tests.chaos.history import History, Op, Violation, check_failures
from tests.chaos.readers import Reader
from tests.chaos.town import PAID
from tests.chaos.workload import ACCOUNTS, BELLS, COUNTERS, HERALDS, Workload
from tests.cluster.durable_actors import noted
from tests.cluster.waiting import eventually


class Judge:
    """Use ``verdict`` once, when nothing is wrong any more and the workload has stopped."""

    def __init__(
        self,
        work: Workload,
        history: History,
        *,
        readers: Sequence[Reader],
        folder: Path,
        rest: float,
        tell: Callable[[str], None],
    ) -> None:
        """``rest``: seconds that everything has to come to rest when all calls have been repeated."""
        self._work = work
        self._history = history
        self._readers = readers
        self._folder = folder
        self._rest = rest
        self._tell = tell

    async def verdict(self) -> list[Violation]:
        """What was promised and did not hold. Everything has some time to come about."""
        loop = asyncio.get_running_loop()
        healthy_from = self._history.now()
        await self._work.settle()
        end = loop.time() + self._rest
        found = [
            *await self._in_time(end, "the bells are stopped", self._stop_ticks),
            *await self._in_time(end, "money has arrived", self._money),
            *await self._in_time(end, "reminders have rung", self._bells),
            *await self._in_time(end, "readers are at the end", self._behind),
            *await self._in_time(end, "counters are right", self._counters),
        ]
        for address in HERALDS:
            found += await self._in_time(end, f"{address} is right", partial(self._channel, address))
        return [
            *found,
            *checks.check_settled(self._history.ops),
            *checks.check_refusals(self._history.ops, healthy_from),
            *check_failures(self._history),
        ]

    async def _in_time(self, end: float, what: str, check: Callable[[], Awaitable[list[Violation]]]) -> list[Violation]:
        """What the check finds in the end; nothing as soon as it finds nothing."""
        found: list[Violation] = []

        async def nothing() -> bool:
            try:
                found[:] = await check()
            except ActorError as error:
                asked = f"{type(error).__name__}: {error}"
                found[:] = [Violation("actors answer when the faults are over", what, "an answer", asked)]
            return not found

        try:
            await eventually(what, nothing, within=end - asyncio.get_running_loop().time())
        except AssertionError:
            self._tell(f"{self._history.now():7.1f} s  not within {self._rest:.0f} s: {what}")
        return found

    async def _stop_ticks(self) -> list[Violation]:
        await asyncio.gather(*(self._work.ask(bell, "stop", "tick") for bell in BELLS))
        return []

    async def _counters(self) -> list[Violation]:
        found: list[Violation] = []
        for address in COUNTERS:
            ops = [op for op in self._history.ops if op.address == address]
            found += check_counter(address, ops, await self._work.ask(address))
        return found

    async def _money(self) -> list[Violation]:
        books = {address: await self._work.ask(address) for address in ACCOUNTS}
        return list(checks.check_money(books, self._history.of("pay"), noted(self._folder, PAID)))

    async def _bells(self) -> list[Violation]:
        found: list[Violation] = []
        for address in BELLS:
            rings: Any = await self._work.ask(address)
            found += checks.check_reminders(address, self._history.of("arm", address), rings.rung, rings.ticks)
            if not rings.ticks:
                found.append(Violation("a periodic reminder rings", address, "ticks", "none"))
        return found

    async def _behind(self) -> list[Violation]:
        """Which readers have yet to come to the end."""
        found: list[Violation] = []
        for address in HERALDS:
            end = self._said(address) + _sum(self._history.of("tell", address))
            late = [reader for reader in self._readers if reader.address == address and reader.end < end]
            check = "readers come to the end"
            found += [Violation(check, address, f"{end}", f"{reader.name}: {reader.end}") for reader in late]
        return found

    def _said(self, address: str) -> int:
        return _sum(self._history.of("say", address))

    async def _channel(self, address: str) -> list[Violation]:
        spoken: Any = await self._work.ask(address)
        readers = {reader.name: reader.entries for reader in self._readers if reader.address == address}
        found = list(checks.check_channel(address, readers, spoken.said, spoken.told))
        found += checks.check_effects("streams", address, self._history.of("tell", address), spoken.told)
        says = self._history.of("say", address)
        unknown = sum(int(str(op.args[0])) for op in says if op.outcome in ("pending", "unknown"))
        if not self._said(address) <= spoken.said <= self._said(address) + unknown:
            expected = f"{self._said(address)} items, and up to {unknown} more"
            found.append(Violation("accepted takes effect once", address, expected, str(spoken.said)))
        return found


def _sum(ops: Sequence[Op]) -> int:
    return sum(int(str(op.args[0])) for op in ops if op.outcome == "ok")
