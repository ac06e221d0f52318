"""Durable turns and steps on SQLite, against DBOS and against the bare store: ``python -m benchmarks.durable --help``.

Everybody syncs to disk before a call is answered, and makes its callers wait in the same process, unless a row says
otherwise. A call goes to one of 256 actors.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from benchmarks import durable_reminders, durable_state
from benchmarks.command import Check, Json, Only, Rounds, Seconds, check_names, choose, execute, verdict
from benchmarks.comparison import Comparison, Row, cpu_ratio, rate_ratio
from benchmarks.contest import Contestant, Sample, Terms, compete
from benchmarks.process import WorkerFailed, start_process
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from cluster.exit_status import ExitStatus

ALONE, MOST = 1, 256
FEW = 16  # callers of a DBOS workflow with 10 steps: 256 would take a minute for one call each

UNITS = {"send_10_later": 10, "steps_10": 10, "steps_100": 100, "parallel_10": 10, "stream_100": 100}
"""How many messages, steps or deltas there are in a call of more than one."""

CONTESTANTS = (
    Contestant(
        "silo",
        {
            "turn": "a turn",
            "turn_told": "  told of in $turns",
            "turn_later": "  a handler that awaits",
            "send": "a send, accepted",
            "send_10_later": "  10 to a handler that awaits",
            "steps_1": "a turn with 1 step",
            "steps_10": "  10 steps",
            "steps_100": "  100 steps",
            "parallel_10": "  10 steps side by side",
            "stream_100": "  a stream of 100 deltas",
        },
        peer="durable_silo",
    ),
    Contestant("client", {"turn": "from a client: a turn", "send": "  a send, accepted"}, peer="durable_client"),
    Contestant(
        "store",
        {
            "turn": "bare store: a turn",
            "turn_later": "  a handler that awaits",
            "send": "  a send",
            "steps_1": "  1 step",
            "steps_10": "  10 steps",
            "parallel_10": "  10 steps side by side",
            "stream_100": "  a stream of 100 deltas",
        },
        peer="durable_store",
    ),
    Contestant("dbos", {"turn": "DBOS: a workflow", "steps_1": "  1 step"}, peer="dbos_workflows", requires="dbos"),
    Contestant("dbos-10", {"steps_10": "  10 steps"}, peer="dbos_workflows", requires="dbos", most_callers=FEW),
    Contestant(
        "dbos-wal", {"turn": "DBOS in WAL mode", "steps_1": "  1 step"}, peer="dbos_wal_workflows", requires="dbos"
    ),
    Contestant("dbos-wal-10", {"steps_10": "  10 steps"}, peer="dbos_wal_workflows", requires="dbos", most_callers=FEW),
)
RIVALS = {"store": ("store",), "DBOS": ("dbos", "dbos-10"), "DBOS WAL": ("dbos-wal", "dbos-wal-10")}
"""Columns of ratios, and who may have done the same work there."""

OWN = ("silo", "client")
STATES, REMINDERS = "states", "reminders"
SIZES = (10_000, 100_000, 1_000_000)

TARGETS = (
    (50.0, "DBOS", "turn", "turns a second against DBOS workflows without steps"),
    (20.0, "DBOS", "steps_10", "steps a second, 10 in a turn, against DBOS"),
    (0.4, "store", "turn", "turns a second against the bare store"),
    (0.4, "store", "steps_10", "steps a second, 10 in a turn, against the bare store"),
)
TARGET_GROWTH = 1.5

NOTES = (
    "The second line of a cell is the range over the rounds. CPU is of all processes, with most callers.",
    "A unit: one of the 10 messages or steps, or of the 100 deltas.",
    "Ours against the others. Rate: times as many calls. CPU: times as much CPU that the other needs for a call.",
    f"A DBOS workflow with 10 steps has {FEW} callers at most: it makes no more with more.",
)


class StateRow(msgspec.Struct):
    """Turns that change about 100 bytes of a state. Seconds and bytes."""

    kind: str
    size: int
    wall: Spread
    cpu: Spread
    written: Spread


class Outcome(msgspec.Struct):
    """What was measured apart from the contest."""

    states: list[durable_state.Measured] = []
    reminders: list[durable_reminders.Measured] = []
    failed: dict[str, str] = {}


def main(
    *,
    seconds: Seconds = 2.0,
    rounds: Rounds = 3,
    callers: Annotated[int, typer.Option(min=2, help="How many callers there are at most.")] = MOST,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each kind and size of a large state, a round.")] = 300,
    sleepers: Annotated[int, typer.Option(min=1, help="How many actors sleep with a reminder.")] = 100_000,
    json: Json = None,
    only: Only = None,
    check: Check = False,
) -> None:
    """Measure durable turns, sends, steps and streams, large states, and reminders of sleeping actors."""
    names = [contestant.name for contestant in CONTESTANTS]
    check_names(only, [*names, STATES, REMINDERS])
    contestants, skipped = choose(CONTESTANTS, [name for name in only if name in names] if only else None)
    if only and not set(only) & set(names):
        contestants, skipped = [], {}
    terms = Terms((ALONE, callers), seconds, rounds)

    async def measure() -> ExitStatus:
        outcome = Outcome()
        with Progress() as note:
            samples, failed = await compete(contestants, terms, note)
            if not only or STATES in only:
                await _measure_states(outcome, turns, rounds, note)
            if not only or REMINDERS in only:
                await _measure_reminders(outcome, sleepers, note)
        comparison = Comparison(contestants, samples)
        rows, states = comparison.rows(), _state_rows(outcome.states)
        report = Report(
            benchmark="durable",
            machine=machine() | _dbos_version(),
            terms=terms,
            rows=[*rows, *states, *outcome.reminders],
            targets=list(_targets(comparison, states, callers)),
            skipped=skipped,
            failed=failed | outcome.failed,
            samples=[*samples, *outcome.states],
        )
        tables = [
            *([_table(rows, callers), _ratio_table(comparison, rows, callers)] if rows else []),
            *([_state_table(states)] if states else []),
            *map(_reminder_table, outcome.reminders),
        ]
        publish(report, tables, notes=(*NOTES, comparison.elsewhere()), json=json)
        return verdict(report.failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


async def _measure_states(outcome: Outcome, turns: int, rounds: int, note: Progress) -> None:
    states = durable_state.States(sizes=list(SIZES), turns=turns)
    command = ["benchmarks.durable_state", msgspec.json.encode(states).decode()]
    for number in range(1, rounds + 1):
        note(f"round {number} of {rounds}: large states")
        try:
            async with start_process("large states", command) as process:
                for _ in range(len(durable_state.KINDS) * len(SIZES)):
                    outcome.states.append(await process.hear(durable_state.Measured, within=60 + turns))
        except WorkerFailed as error:
            outcome.failed[STATES] = str(error)
            return


async def _measure_reminders(outcome: Outcome, sleepers: int, note: Progress) -> None:
    note(f"{sleepers:,} sleeping actors with reminders")
    command = ["benchmarks.durable_reminders", msgspec.json.encode(durable_reminders.Sleepers(sleepers)).decode()]
    try:
        async with start_process("reminders", command) as process:
            outcome.reminders.append(await process.hear(durable_reminders.Measured, within=60 + sleepers / 200))
    except WorkerFailed as error:
        outcome.failed[REMINDERS] = str(error)


def _dbos_version() -> dict[str, str | int]:
    try:
        return {"dbos": version("dbos")}
    except PackageNotFoundError:
        return {}


def _state_rows(measured: Sequence[durable_state.Measured]) -> list[StateRow]:
    rows = []
    for kind, size in dict.fromkeys((one.kind, one.size) for one in measured):
        same = [one for one in measured if (one.kind, one.size) == (kind, size)]
        wall, cpu, written = ([getattr(one, name) for one in same] for name in ("wall", "cpu", "written"))
        rows.append(StateRow(kind, size, Spread.of(wall), Spread.of(cpu), Spread.of(written)))
    return rows


def _targets(comparison: Comparison, states: Sequence[StateRow], most: int) -> Iterator[Target]:
    for factor, column, work, what in TARGETS:
        ratio = rate_ratio(comparison.of("silo", work, most), _rival(comparison, column, work))
        yield Target.at_least(factor, ratio, f"{what}, {most} callers")
    for kind, title in durable_state.KINDS.items():
        of_kind = {row.size: row for row in states if row.kind == kind}
        small, large = (of_kind.get(size) for size in (SIZES[0], SIZES[-1]))
        for figure in ("cpu", "written"):
            ratio = _growth(getattr(large, figure), getattr(small, figure)) if small and large else None
            yield Target.at_most(TARGET_GROWTH, ratio, f"{figure} of a turn with 1 MB against 10 kB, {title}")


def _growth(large: Spread, small: Spread) -> Spread:
    return Spread(large.median / small.median, large.least / small.greatest, large.greatest / small.least)


def _rival(comparison: Comparison, column: str, work: str) -> list[Sample]:
    """Its samples with the most callers that it has."""
    samples = [sample for name in RIVALS[column] for sample in comparison.of(name, work)]
    most = max((sample.callers for sample in samples), default=0)
    return [sample for sample in samples if sample.callers == most]


def _table(rows: Sequence[Row], callers: int) -> Table:
    table = new_table("Durable calls, 256 actors, SQLite with full sync")
    rates = "calls/s\nalone", f"calls/s\nof {callers}", "units/s"
    for name in ("p50 ms\nalone", *rates, "CPU µs\na call", "CPU µs\na unit"):
        table.add_column(name, justify="right")
    for alone in [row for row in rows if row.callers == ALONE]:
        most = next(r for r in rows if (r.contestant, r.work) == (alone.contestant, alone.work) and r.callers != ALONE)
        units = UNITS.get(alone.work, 0)
        table.add_row(
            alone.title,
            cell(alone.p50, ".2f", unit=1e-3),
            cell(alone.rate, ",.0f"),
            cell(most.rate, ",.0f"),
            cell(most.rate, ",.0f", unit=1 / units) if units else "",
            cell(most.cpu, ",.0f", unit=1e-6),
            cell(most.cpu, ",.1f", unit=1e-6 * units) if units else "",
        )
    return table


def _ratio_table(comparison: Comparison, rows: Sequence[Row], callers: int) -> Table:
    table = new_table(f"Ours against the others, {callers} callers, in the same round")
    for rival in RIVALS:
        table.add_column(f"{rival}\nrate", justify="right")
        table.add_column(f"{rival}\nCPU", justify="right")
    for ours in [row for row in rows if row.contestant in OWN and row.callers == callers]:
        samples = comparison.of(ours.contestant, ours.work, callers)
        ratios = [
            cell(compare(samples, _rival(comparison, column, ours.work)), ".2f" if column == "store" else ".0f")
            for column in RIVALS
            for compare in (rate_ratio, cpu_ratio)
        ]
        if any(ratios):
            table.add_row(ours.title, *ratios)
    return table


def _state_table(rows: Sequence[StateRow]) -> Table:
    table = new_table("Turns that change 100 bytes of a large state, one caller")
    for name in ("state, bytes", "turns/s", "CPU µs\na turn", "bytes written\na turn"):
        table.add_column(name, justify="right")
    for kind, title in durable_state.KINDS.items():
        for row in [row for row in rows if row.kind == kind]:
            rate = Spread(1 / row.wall.median, 1 / row.wall.greatest, 1 / row.wall.least)
            figures = cell(rate, ",.0f"), cell(row.cpu, ",.0f", unit=1e-6), cell(row.written, ",.0f")
            table.add_row(title, f"{row.size:,}", *figures)
    return table


def _reminder_table(measured: durable_reminders.Measured) -> Table:
    table = new_table("Reminders of sleeping actors")
    names = ("actors", "bytes each\nin the silo", "bytes each\non disk", "rows a look,\nnone due", "ms a look")
    for name in (*names, f"rows read until\n{measured.due} had fired"):
        table.add_column(name, justify="right")
    table.add_row(
        "one reminder each",
        f"{measured.count:,}",
        f"{measured.memory_each:,.0f}",
        f"{measured.disk_each:,.0f}",
        f"{measured.rows_idle:,.0f}",
        f"{measured.seconds_a_look * 1e3:.2f}",
        f"{measured.rows_due:,}",
    )
    return table


if __name__ == "__main__":
    typer.run(main)
