"""Memory that an idle activation takes: ``python -m benchmarks.memory --help``. Linux only.

Each figure comes from a silo in a fresh process: the growth of its share of the machine's memory (PSS) between 1,000
activations and many, divided by how many were added.
"""

import contextlib
import tempfile
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from benchmarks.command import Check, Json, Only, Rounds, check_names, execute, verdict
from benchmarks.footprint import proportional_memory
from benchmarks.idle_activations import BASE, Idle, Measured
from benchmarks.process import WorkerFailed, start_process
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from cluster.etcd import EtcdServer, EtcdServerFailed
from cluster.exit_status import ExitStatus

SIZES = (10_000, 50_000)
TARGET = 4096.0
TARGET_WORDS = "bytes of an idle activation with an empty state or none, embedded directory"
TARGET_KINDS = ("stateless", "state")
NOTES = (
    f"Growth of PSS, after a full garbage collection, from {BASE:,} activations on, divided by how many were added.",
    "The second line of a cell is the range over the rounds.",
)

_CENSUS_ROWS = 25
_SLOWEST = 200.0  # activations a second, even on a machine that is busy with other things
_SLACK = 60.0  # seconds


class Kind(msgspec.Struct, frozen=True):
    """One kind of idle activation."""

    name: str
    title: str
    type: str
    sqlite: bool = False
    etcd: bool = False


KINDS = (
    Kind("stateless", "no state", "echo"),
    Kind("state", "empty state, SQLite store", "keeper", sqlite=True),
    Kind("state-in-memory", "empty state, memory store", "keeper"),
    Kind("etcd", "no state, directory in etcd", "echo", etcd=True),
)


class Sample(msgspec.Struct):
    """One process, measured at one size."""

    kind: str
    round: int
    measured: Measured
    etcd_bytes_each: float | None
    """By how much etcd's own process grew."""


class Row(msgspec.Struct):
    """Bytes of an activation of one kind among so many."""

    kind: str
    title: str
    activations: int
    bytes_each: Spread
    etcd_bytes_each: Spread | None


class Terms(msgspec.Struct, frozen=True):
    """What is the same for all kinds."""

    sizes: list[int]
    seconds: float
    rounds: int


def main(
    *,
    size: Annotated[
        list[int] | None, typer.Option(min=BASE + 1, help="How many activations; repeatable. Default: 10000, 50000.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long a silo is left alone before it is measured.")] = 1.0,
    rounds: Rounds = 3,
    only: Only = None,
    census: Annotated[
        bool, typer.Option("--census", help="List the objects that an activation is made of. Slow.")
    ] = False,
    json: Json = None,
    check: Check = False,
) -> None:
    """Measure the memory that an idle activation takes, with an empty state and with none."""
    terms = Terms(sorted(size or SIZES), seconds, rounds)
    check_names(only, [kind.name for kind in KINDS])
    kinds = [kind for kind in KINDS if not only or kind.name in only]

    async def measure() -> ExitStatus:
        with Progress() as note:
            samples, failed = await _fill_silos(kinds, terms, note)
            counted = await _count_objects(kinds, terms, note) if census else []
        rows = _rows(samples)
        judged = [row.bytes_each for row in rows if row.kind in TARGET_KINDS]
        most = max(judged, key=lambda spread: spread.median, default=None)
        report = Report(
            benchmark="memory",
            machine=machine(),
            terms=terms,
            rows=rows,
            targets=[Target.at_most(TARGET, most, TARGET_WORDS)],
            failed=failed,
            samples=[*samples, *counted],
        )
        publish(report, [_table(rows), *map(_census, counted)], notes=NOTES, json=json)
        return verdict(failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


async def _fill_silos(kinds: Sequence[Kind], terms: Terms, note: Progress) -> tuple[list[Sample], dict[str, str]]:
    samples: list[Sample] = []
    failed: dict[str, str] = {}
    for number in range(1, terms.rounds + 1):
        for kind in kinds:
            if kind.name in failed:
                continue
            note(f"round {number} of {terms.rounds}: {kind.title}")
            try:
                samples.extend(await _fill_silo(kind, terms, number))
            except (WorkerFailed, EtcdServerFailed, OSError) as error:
                failed[kind.name] = str(error)
    return samples, failed


async def _count_objects(kinds: Sequence[Kind], terms: Terms, note: Progress) -> list[Sample]:
    """A census of each kind at the largest size, in processes of their own: counting disturbs the measurement."""
    found = []
    for kind in kinds:
        note(f"objects: {kind.title}")
        found.extend(await _fill_silo(kind, msgspec.structs.replace(terms, sizes=terms.sizes[-1:]), 0, census=True))
    return found


async def _fill_silo(kind: Kind, terms: Terms, number: int, *, census: bool = False) -> list[Sample]:
    async with contextlib.AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer()) if kind.etcd else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        idle = Idle(
            type=kind.type,
            sizes=terms.sizes,
            store=f"sqlite:///{folder}/state.db" if kind.sqlite else "memory:",
            etcd=etcd.endpoint if etcd is not None else None,
            settle=terms.seconds,
            census=census,
        )
        command = ["benchmarks.idle_activations", msgspec.json.encode(idle).decode()]
        silo = await stack.enter_async_context(start_process(kind.title, command))
        await silo.hear(int, within=BASE / _SLOWEST + terms.seconds + _SLACK)
        base = _memory_of(etcd)
        samples = []
        for size in terms.sizes:
            measured = await silo.hear(Measured, within=size / _SLOWEST + terms.seconds + _SLACK)
            grown = (_memory_of(etcd) - base) / (size - BASE) if etcd is not None else None
            samples.append(Sample(kind.name, number, measured, grown))
        return samples


def _memory_of(etcd: EtcdServer | None) -> int:
    return proportional_memory(etcd.pid) if etcd is not None and etcd.pid is not None else 0


def _rows(samples: Sequence[Sample]) -> list[Row]:
    rows = []
    for kind in KINDS:
        of_kind = [sample for sample in samples if sample.kind == kind.name]
        for size in sorted({sample.measured.activations for sample in of_kind}):
            same = [sample for sample in of_kind if sample.measured.activations == size]
            etcd = [sample.etcd_bytes_each for sample in same if sample.etcd_bytes_each is not None]
            each = Spread.of([sample.measured.bytes_each for sample in same])
            rows.append(Row(kind.name, kind.title, size, each, Spread.of(etcd) if etcd else None))
    return rows


def _table(rows: Sequence[Row]) -> Table:
    table = new_table("Memory of an idle activation")
    for name in ("activations", "bytes each\nin the silo", "bytes each\nin etcd"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = [cell(figure, ",.0f") for figure in (row.bytes_each, row.etcd_bytes_each)]
        table.add_row(row.title, f"{row.activations:,}", *figures)
    return table


def _census(sample: Sample) -> Table:
    table = new_table(f"Objects of each of {sample.measured.activations:,} activations: {sample.kind}")
    for name in ("how many", "bytes"):
        table.add_column(name, justify="right")
    for entry in sample.measured.by_type[:_CENSUS_ROWS]:
        table.add_row(entry.name, f"{entry.count:.2f}", f"{entry.size:,.0f}")
    table.add_row("all together", "", f"{sum(entry.size for entry in sample.measured.by_type):,.0f}")
    return table


if __name__ == "__main__":
    typer.run(main)
