"""Contestants measured in turns: in each round every one starts afresh, does its works and is gone."""

import contextlib
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.load import Window
from benchmarks.peer import Place
from benchmarks.process import Worker, WorkerFailed, cpu_seconds, machine_cpu_seconds, start_worker
from cluster.etcd import EtcdServer, EtcdServerFailed

_WARM_UP = 0.25  # of the time that is measured


@dataclass(frozen=True)
class Contestant:
    """One system, or one way of using it: server processes, one calling process, and an etcd if it needs one."""

    name: str
    works: Mapping[str, str]
    """The works that it does, with their titles in the report."""
    peer: str
    """Its module in benchmarks/peers."""
    requires: str = ""
    """The package without which it cannot take part."""
    servers: int = 1
    etcd: bool = False
    most_callers: int = 1_000_000
    one_cpu_account: bool = True
    """Whether all that it does happens in the processes that are known here."""


class Sample(msgspec.Struct):
    """One work of one contestant, measured once."""

    contestant: str
    work: str
    round: int
    callers: int
    window: Window
    cpu: dict[str, float]
    """CPU seconds of one call, by kind of process: caller, servers, etcd."""
    elsewhere: float | None
    """The share of the machine's CPU that other programs used meanwhile, None where that cannot be told."""
    counts: dict[str, float]
    """By how much the servers' counters rose, all servers together."""

    @property
    def cpu_per_call(self) -> float:
        """CPU seconds of one call in all processes."""
        return sum(self.cpu.values())


@dataclass(frozen=True)
class _Arena:
    """The processes of one contestant."""

    caller: Worker
    servers: Sequence[Worker]
    etcd: EtcdServer | None

    async def counts(self) -> dict[str, float]:
        """The counters of all servers together."""
        total: defaultdict[str, float] = defaultdict(float)
        for server in self.servers:
            for name, value in (await server.count()).items():
                total[name] += value
        return total

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far."""
        used = {
            "caller": cpu_seconds(self.caller.pid),
            "servers": sum(cpu_seconds(server.pid) for server in self.servers),
        }
        if self.etcd is not None and self.etcd.pid is not None:
            used["etcd"] = cpu_seconds(self.etcd.pid)
        return used


class Terms(msgspec.Struct, frozen=True):
    """What is the same for all contestants."""

    callers: tuple[int, ...]
    seconds: float
    rounds: int


async def compete(
    contestants: Sequence[Contestant], terms: Terms, note: Callable[[str], None]
) -> tuple[list[Sample], dict[str, str]]:
    """Measure every work of every contestant once a round. Each round begins with another contestant.

    Returns the samples, and by name why a contestant failed: it is left out from then on.
    """
    samples: list[Sample] = []
    failed: dict[str, str] = {}
    for number in range(1, terms.rounds + 1):
        first = (number - 1) % max(len(contestants), 1)
        for contestant in (*contestants[first:], *contestants[:first]):
            if contestant.name in failed:
                continue
            note(f"round {number} of {terms.rounds}: {contestant.name}")
            try:
                samples.extend(await _measure(contestant, number, terms))
            except (WorkerFailed, EtcdServerFailed) as error:
                failed[contestant.name] = str(error)
                note(f"{contestant.name} failed and is left out from now on")
    return samples, failed


async def _measure(contestant: Contestant, number: int, terms: Terms) -> list[Sample]:
    async with _open(contestant) as arena:
        return [
            await _sample(contestant, number, arena, work=work, callers=callers, seconds=terms.seconds)
            for callers in sorted({min(count, contestant.most_callers) for count in terms.callers})
            for work in contestant.works
        ]


async def _sample(
    contestant: Contestant, number: int, arena: _Arena, *, work: str, callers: int, seconds: float
) -> Sample:
    await arena.caller.drive(work, callers=callers, seconds=seconds * _WARM_UP)
    counts, cpu, machine = await arena.counts(), arena.cpu(), machine_cpu_seconds()
    window = await arena.caller.drive(work, callers=callers, seconds=seconds)
    used = {kind: total - cpu[kind] for kind, total in arena.cpu().items()}
    others = machine_cpu_seconds() - machine - sum(used.values())
    grown = {name: value - counts[name] for name, value in (await arena.counts()).items()}
    if not contestant.one_cpu_account or math.isnan(others):
        return Sample(contestant.name, work, number, callers, window, {}, None, grown)
    cpu = {kind: seconds / window.calls for kind, seconds in used.items()}
    elsewhere = max(others / (window.seconds * (os.cpu_count() or 1)), 0.0)
    return Sample(contestant.name, work, number, callers, window, cpu, elsewhere, grown)


@contextlib.asynccontextmanager
async def _open(contestant: Contestant) -> AsyncIterator[_Arena]:
    async with contextlib.AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer()) if contestant.etcd else None
        place = Place(store="memory:")
        if etcd is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
            place = Place(etcd=etcd.endpoint, store=f"sqlite:///{folder}/state.db")
        servers = []
        for number in range(1, contestant.servers + 1):
            place.name = f"n{number}"
            servers.append(await stack.enter_async_context(start_worker(contestant.peer, "serve", place)))
        place.name = "caller"
        place.endpoints = [server.endpoint for server in servers]
        caller = await stack.enter_async_context(start_worker(contestant.peer, "call", place))
        yield _Arena(caller, servers, etcd)
