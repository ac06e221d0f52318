"""From ``interrupt()`` on one silo to the end of what runs on another: ``python -m benchmarks.interrupt --help``.

A turn streams tokens from a provider, an HTTP server in a process of its own, and publishes them. When a reader has
the first, another silo interrupts it. Times are of one clock, that all processes of the machine share (Linux).
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from benchmarks.command import Check, Json, Rounds, execute, verdict
from benchmarks.interrupting import Latency, Measured, Tries
from benchmarks.model_server import Provider
from benchmarks.peer import Place
from benchmarks.process import (
    Worker,
    WorkerFailed,
    cpu_seconds,
    machine_cpu_seconds,
    start_process,
    start_worker,
)
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from cluster.etcd import EtcdServer, EtcdServerFailed
from cluster.exit_status import ExitStatus

LOADS = {0.0: "idle", 0.8: "owner at 80 % CPU"}
UNTIL = {
    "returned": "interrupt() has returned: it is durable",
    "raised": "Interrupted is raised in the handler",
    "closed": "the provider's connection is closed",
}
TARGET = 25e-3
INTERVAL = 0.01

_SLOWEST = 2.0  # tries a second, even on a machine that is busy with other things
_SLACK = 60.0  # seconds


class Row(msgspec.Struct):
    """One load and one event. Seconds."""

    load: float
    until: str
    p50: Spread
    p99: Spread
    longest: float


class Sample(msgspec.Struct):
    """One load of one round."""

    round: int
    measured: Measured
    elsewhere: float
    """The share of the machine's CPU that other programs used meanwhile."""


class Terms(msgspec.Struct, frozen=True):
    """What is the same for all rounds."""

    tries: int
    rounds: int
    interval: float = INTERVAL


def main(
    *,
    tries: Annotated[int, typer.Option(min=1, help="Interruptions under each load, in each round.")] = 1000,
    rounds: Rounds = 3,
    json: Json = None,
    check: Check = False,
) -> None:
    """Measure how long a turn goes on after it was interrupted from another silo."""
    terms = Terms(tries, rounds)

    async def measure() -> ExitStatus:
        samples: list[Sample] = []
        failed: dict[str, str] = {}
        with Progress() as note:
            try:
                for number in range(1, rounds + 1):
                    samples.extend(await _round(terms, number, note))
            except (WorkerFailed, EtcdServerFailed, OSError) as error:
                failed["interrupt"] = str(error)
        rows = _rows(samples)
        report = Report(
            benchmark="interrupt",
            machine=machine(),
            terms=terms,
            rows=rows,
            targets=[_target(rows, until) for until in ("raised", "closed")],
            failed=failed,
            samples=samples,
        )
        publish(report, [_table(rows, terms)] if rows else [], notes=_notes(samples), json=json)
        return verdict(failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


async def _round(terms: Terms, number: int, note: Callable[[str], None]) -> list[Sample]:
    samples = []
    note(f"round {number} of {terms.rounds}: starting")
    async with _arena(terms) as (interrupter, cpu_of_all):
        for title in LOADS.values():
            note(f"round {number} of {terms.rounds}: {title}")
            ours, machines = cpu_of_all(), machine_cpu_seconds()
            measured = await interrupter.hear(Measured, within=terms.tries / _SLOWEST + _SLACK)
            ours, machines = cpu_of_all() - ours, machine_cpu_seconds() - machines
            samples.append(Sample(number, measured, max(machines - ours, 0.0) / machines if machines else 0.0))
    return samples


@contextlib.asynccontextmanager
async def _arena(terms: Terms) -> AsyncIterator[tuple[Worker, Callable[[], float]]]:
    """Provider, owner and interrupter; with a function that tells the CPU seconds of them all, and of their etcd."""
    async with contextlib.AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        place = Place(etcd=etcd.endpoint, store=f"sqlite:///{folder}/state.db", name="owner")
        settings = msgspec.json.encode(Provider(terms.interval)).decode()
        provider = await stack.enter_async_context(start_process("provider", ["benchmarks.model_server", settings]))
        owner = await stack.enter_async_context(start_worker("interrupted", "serve", place))
        place.name = "interrupter"
        tries = Tries(
            place=place,
            provider=provider.endpoint,
            interval=terms.interval,
            count=terms.tries,
            loads=list(LOADS),
        )
        command = ["benchmarks.interrupting", msgspec.json.encode(tries).decode()]
        interrupter = await stack.enter_async_context(start_process("interrupter", command))
        pids = [provider.pid, owner.pid, interrupter.pid, *([etcd.pid] if etcd.pid is not None else [])]
        yield interrupter, lambda: sum(map(cpu_seconds, pids))


def _rows(samples: Sequence[Sample]) -> list[Row]:
    rows = []
    for load in LOADS:
        for until in UNTIL:
            found: list[Latency] = [getattr(one.measured, until) for one in samples if one.measured.load == load]
            if found:
                p50, p99 = Spread.of([one.p50 for one in found]), Spread.of([one.p99 for one in found])
                rows.append(Row(load, until, p50, p99, max(one.longest for one in found)))
    return rows


def _target(rows: Sequence[Row], until: str) -> Target:
    p99 = next((row.p99 for row in rows if (row.load, row.until) == (0.0, until)), None)
    in_ms = Spread(p99.median * 1e3, p99.least * 1e3, p99.greatest * 1e3) if p99 is not None else None
    return Target.at_most(TARGET * 1e3, in_ms, f"ms until {UNTIL[until]}, p99, idle")


def _table(rows: Sequence[Row], terms: Terms) -> Table:
    table = new_table(f"From interrupt() on another silo, {terms.tries:,} tries, ms until")
    for name in ("p50", "p99", "longest"):
        table.add_column(name, justify="right")
    for load, title in LOADS.items():
        table.add_row(title)
        for row in [row for row in rows if row.load == load]:
            longest = format(row.longest * 1e3, ".1f")
            table.add_row(
                f"  {UNTIL[row.until]}", *(cell(one, ".1f", unit=1e-3) for one in (row.p50, row.p99)), longest
            )
    return table


def _notes(samples: Sequence[Sample]) -> list[str]:
    if not samples:
        return []
    shares = {
        title: Spread.of([one.measured.cpu for one in samples if one.measured.load == load])
        for load, title in LOADS.items()
    }
    used = ", ".join(f"{title}: {share.text('.0%')}" for title, share in shares.items())
    others = Spread.of([one.elsewhere for one in samples]).text(".0%")
    return [
        "The second line of a cell is the range over the rounds; the longest is that of all tries.",
        f"CPU of the owner's process: {used}. Other programs used {others} of what the machine computed meanwhile.",
    ]


if __name__ == "__main__":
    typer.run(main)
