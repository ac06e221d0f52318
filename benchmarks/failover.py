"""From the loss of a silo to the answers of its actors: ``python -m benchmarks.failover --help``.

Three silo processes, etcd and a store, under a load of calls to many durable actors. One silo at a time is killed,
frozen, cut off or asked to go, and each of its actors is waited for. Times are of one clock, that of the callers.
"""

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from benchmarks.command import Check, Json, Only, check_names, execute, verdict
from benchmarks.failing_over import BIN, LEAD, NAMES, Fault, Load, Recovered, Tried, recover, try_fault
from benchmarks.load import percentile
from benchmarks.namespaces import NoNamespaces, open_network
from benchmarks.peer import installed
from benchmarks.process import WorkerFailed, start_process
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from benchmarks.silo_processes import TTL, SiloProcesses, open_silos
from benchmarks.timeline import Row as Picture
from benchmarks.timeline import draw
from cluster.etcd import EtcdServerFailed
from cluster.exit_status import ExitStatus

APP = "benchmarks.failover_app"
TITLES = {
    "kill": "SIGKILL",
    "freeze": "SIGSTOP",
    "cut": "cut off from the network",
    "drain": "SIGTERM",
    "ray": "Ray: SIGKILL of the actor's process",
}
RECOVERY = "recovery"
LIMITS = {"kill": 1.0, "freeze": TTL + 1.0, "cut": TTL + 1.0}
"""What is promised, in seconds."""

NOTES = (
    "The second line of a cell is the range over the tries. p50, p99 and longest are of all actors of all tries.",
    "Silence of others: the longest time without an answer of an actor whose caller was connected to the lost silo.",
    "Times SIGKILL: how many times as long it took, by the p50.",
    "Sent again: calls that ran only when they were repeated, which no caller had to do.",
    "Ray keeps no state: each of its lost effects is a count that began anew.",
)
PUT_OFF = (
    "{} times a silo was in the middle of a write to the SQLite file, and was frozen a moment later instead: "
    "frozen there it would hold up all others. PostgreSQL has no such file."
)

_SLOWEST_KILL = 60.0  # seconds, of Ray


class Row(msgspec.Struct):
    """All tries of one fault. Seconds from the fault."""

    fault: str
    tries: int
    p50: float
    """Until an actor of the lost silo had answered elsewhere; of all actors of all tries."""
    p99: float
    longest: float
    slowest: Spread
    """The last actor of each try."""
    silence: float
    """The longest time that an actor of the lost silo answered nobody."""
    silence_elsewhere: float
    """The same of actors of the other silos: those whose caller was connected to the lost one."""
    calls: int
    failed: dict[str, int]
    repeated: int
    wrong: int
    returned: Spread | None
    put_off: int


class Recovery(msgspec.Struct):
    """Many actors of one dead silo, all asked at once. Seconds from the death."""

    actors: int
    first: Spread
    half: Spread
    all: Spread
    cpu_each: Spread
    """CPU seconds of an actor, of the surviving silos together."""


class Terms(msgspec.Struct, frozen=True):
    """How often, and under which load."""

    kills: int
    tries: int
    actors: int
    recoveries: int
    load: Load
    lease_ttl: int = TTL


def main(
    *,
    kills: Annotated[int, typer.Option(min=1, help="How many silos are killed; as many processes of Ray.")] = 50,
    tries: Annotated[int, typer.Option(min=1, help="How often each of the other faults is tried.")] = 5,
    actors: Annotated[int, typer.Option(min=1, help="Actors of the dead silo that recover at once.")] = 10_000,
    recoveries: Annotated[int, typer.Option(min=1, help="How often that is tried.")] = 3,
    callers: Annotated[int, typer.Option(min=6, help="Actors under load on all silos, each with a caller.")] = 150,
    interval: Annotated[float, typer.Option(min=0.001, help="Seconds between an answer and the next call.")] = 0.05,
    store: Annotated[str | None, typer.Option(help="postgresql://...; by default a SQLite file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a timeline of each fault to this file, an SVG.")] = None,
    json: Json = None,
    only: Only = None,
    check: Check = False,
) -> None:
    """Measure how long actors are away when their silo is killed, frozen, cut off or asked to go."""
    check_names(only, [*TITLES, RECOVERY])
    terms = Terms(kills, tries, actors, recoveries, Load(callers, interval))
    run = _Run(terms, [name for name in (*TITLES, RECOVERY) if not only or name in only], store)

    async def measure() -> ExitStatus:
        with Progress() as note:
            await run.all(note)
        rows = [_row(name, run.tried[name]) for name in TITLES if run.tried[name]]
        recovery = _recovery(terms.actors, run.recovered) if run.recovered else None
        report = Report(
            benchmark="failover",
            machine={**machine(), "load_average": f"{os.getloadavg()[0]:.1f}"},
            terms=terms,
            rows=[*rows, *([recovery] if recovery is not None else [])],
            targets=[_target(rows, name) for name in LIMITS],
            skipped=run.skipped,
            failed=run.failed,
            samples=[*(tried for name in TITLES for tried in run.tried[name]), *run.recovered],
        )
        if picture is not None and rows:
            picture.write_text(_picture(run.tried))
        tables = [_table(rows), _call_table(rows)] if rows else []
        if recovery is not None:
            tables.append(_recovery_table(recovery))
        publish(report, tables, notes=_notes(rows), json=json)
        return verdict(run.failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


class _Run:
    """What is measured in one run, fault by fault, each with silos of its own."""

    def __init__(self, terms: Terms, chosen: Sequence[str], store: str | None) -> None:
        self.tried: dict[str, list[Tried]] = {name: [] for name in TITLES}
        self.recovered: list[Recovered] = []
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._terms = terms
        self._chosen = chosen
        self._store = store

    async def all(self, note: Progress) -> None:
        """Everything that was chosen and is possible here."""
        for name in self._chosen:
            try:
                if name == "ray":
                    await self._try_ray(note)
                elif name == RECOVERY:
                    await self._recover(note)
                else:
                    await self._try(Fault(name), note)
            except NoNamespaces as reason:
                self.skipped[name] = str(reason)
            except (WorkerFailed, EtcdServerFailed, OSError) as error:
                self.failed[name] = str(error)

    async def _try(self, fault: Fault, note: Progress) -> None:
        times = self._terms.kills if fault is Fault.KILL else self._terms.tries
        async with self._silos(fault) as silos:
            for number in range(times):
                note(f"{TITLES[fault.value]}: {number + 1} of {times}")
                victim = NAMES[number % len(NAMES)]
                self.tried[fault.value].append(await try_fault(silos, fault, victim, self._terms.load))

    async def _recover(self, note: Progress) -> None:
        async with self._silos(Fault.KILL) as silos:
            for number in range(self._terms.recoveries):
                note(f"recovery of {self._terms.actors:,} actors: {number + 1} of {self._terms.recoveries}")
                self.recovered.append(await recover(silos, NAMES[number % len(NAMES)], self._terms.actors))

    @contextlib.asynccontextmanager
    async def _silos(self, fault: Fault) -> AsyncIterator[SiloProcesses]:
        async with contextlib.AsyncExitStack() as stack:
            network = await stack.enter_async_context(open_network(*NAMES)) if fault is Fault.CUT else None
            if network is not None and self._store is not None:
                raise NoNamespaces("a store that was given may not be reachable from hosts of our own")
            yield await stack.enter_async_context(open_silos(APP, NAMES, store=self._store, network=network))

    async def _try_ray(self, note: Progress) -> None:
        if not installed("ray"):
            self.skipped["ray"] = "ray is not installed"
            return
        load = Load(self._terms.load.callers // len(NAMES), self._terms.load.interval)
        settings = {"kills": self._terms.kills, "load": load}
        note("Ray: starting")
        async with start_process("ray", ["benchmarks.ray_restarts", msgspec.json.encode(settings).decode()]) as ray:
            for number in range(self._terms.kills):
                note(f"{TITLES['ray']}: {number + 1} of {self._terms.kills}")
                self.tried["ray"].append(await ray.hear(Tried, within=_SLOWEST_KILL))


def _row(name: str, tried: Sequence[Tried]) -> Row:
    answered = sorted(seconds for one in tried for seconds in one.answered)
    returned = [one.returned for one in tried if one.returned is not None]
    return Row(
        fault=name,
        tries=len(tried),
        p50=percentile(answered, 50),
        p99=percentile(answered, 99),
        longest=answered[-1],
        slowest=Spread.of([one.answered[-1] for one in tried]),
        silence=max(one.silence[-1] for one in tried),
        silence_elsewhere=max(one.silence_elsewhere for one in tried),
        calls=sum(one.calls for one in tried),
        failed=dict(sum((Counter(one.failed) for one in tried), Counter[str]())),
        repeated=sum(one.repeated for one in tried),
        wrong=sum(one.wrong for one in tried),
        returned=Spread.of(returned) if returned else None,
        put_off=sum(one.put_off for one in tried),
    )


def _recovery(actors: int, recovered: Sequence[Recovered]) -> Recovery:
    return Recovery(
        actors,
        first=Spread.of([one.first for one in recovered]),
        half=Spread.of([one.half for one in recovered]),
        all=Spread.of([one.all for one in recovered]),
        cpu_each=Spread.of([one.cpu / actors for one in recovered]),
    )


def _target(rows: Sequence[Row], name: str) -> Target:
    row = next((row for row in rows if row.fault == name), None)
    p99 = Spread(row.p99 * 1e3, row.p99 * 1e3, row.p99 * 1e3) if row is not None else None
    return Target.at_most(LIMITS[name] * 1e3, p99, f"ms until actors answer elsewhere, p99, {TITLES[name]}")


def _table(rows: Sequence[Row]) -> Table:
    table = new_table("From the fault to the first answer of each actor that lived on the lost silo, ms")
    names = (
        "tries",
        "p50",
        "p99",
        "longest",
        "last actor\nof a try",
        "silence of\nothers",
        "rejoined\nafter, s",
        "times\nSIGKILL",
    )
    for name in names:
        table.add_column(name, justify="right")
    kill = next((row for row in rows if row.fault == "kill"), None)
    for row in rows:
        table.add_row(
            TITLES[row.fault],
            str(row.tries),
            *(f"{seconds * 1e3:,.0f}" for seconds in (row.p50, row.p99, row.longest)),
            cell(row.slowest, ",.0f", unit=1e-3),
            f"{row.silence_elsewhere * 1e3:,.0f}" if row.silence_elsewhere else "",
            cell(row.returned, ".2f"),
            f"{row.p50 / kill.p50:.1f}" if kill is not None and row is not kill else "",
        )
    return table


def _call_table(rows: Sequence[Row]) -> Table:
    table = new_table("Calls of all actors, from the fault on")
    for name in ("calls", "failed", "sent again", "effects lost\nor doubled"):
        table.add_column(name, justify="right")
    for row in rows:
        failed = ", ".join(f"{count} {name}" for name, count in row.failed.items()) or "0"
        again = f"{row.repeated:,}" if row.fault != "ray" else "not told"
        table.add_row(TITLES[row.fault], f"{row.calls:,}", failed, again, f"{row.wrong:,}")
    return table


def _recovery_table(recovery: Recovery) -> Table:
    table = new_table("Actors of one dead silo, all asked at once, s from its death until so many have answered")
    for name in ("the first", "half of them", "all", "CPU of an actor\nin the silos, ms"):
        table.add_column(name, justify="right")
    seconds = (cell(spread, ".2f") for spread in (recovery.first, recovery.half, recovery.all))
    table.add_row(f"{recovery.actors:,} actors", *seconds, cell(recovery.cpu_each, ".2f", unit=1e-3))
    return table


def _notes(rows: Sequence[Row]) -> list[str]:
    put_off = sum(row.put_off for row in rows)
    busy = f"Load average of the machine, at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    return [*NOTES, *([PUT_OFF.format(put_off)] if put_off else []), busy]


def _picture(tried: dict[str, list[Tried]]) -> str:
    rows = []
    for name, found in tried.items():
        if found:  # the try whose slowest actor took as long as in half of the tries
            typical = sorted(found, key=lambda one: one.answered[-1])[len(found) // 2]
            title, _, subtitle = TITLES[name].partition(": ")
            words = subtitle or f"{len(typical.answered)} actors lived there"
            rows.append(Picture(title, words, typical.lost_bars, typical.other_bars, typical.answered[-1]))
    return draw(rows, seconds_a_bar=BIN, lead=LEAD, title="Answers before and after each fault")


if __name__ == "__main__":
    typer.run(main)
