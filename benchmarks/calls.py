"""Remote calls between two processes on one machine, against other systems: ``python -m benchmarks.calls --help``.

A payload of 100 bytes goes to one of 100 actors and back. Figures of different systems come from the same run; the
ratios are of rounds, so what disturbs the machine for longer than a round disturbs both sides alike.
"""

import typer
from rich.table import Table

from benchmarks.command import Check, Json, Only, Rounds, Seconds, choose, execute, verdict
from benchmarks.comparison import Comparison, Row, cpu_ratio, rate_ratio
from benchmarks.contest import Contestant, Terms, compete
from benchmarks.report import Progress, Report, Target, cell, machine, new_table, publish
from cluster.exit_status import ExitStatus

CALLERS = (1, 64, 256)
MOST = CALLERS[-1]

CONTESTANTS = (
    Contestant(
        "silo",
        {"echo": "agentsilo: client to silo", "echo_later": "  same, a handler that awaits"},
        peer="silo",
    ),
    Contestant("silo-to-silo", {"echo": "agentsilo: silo to silo"}, peer="silo_to_silo", etcd=True),
    Contestant("grpc", {"echo": "grpc.aio unary, no actors"}, peer="grpc_unary"),
    Contestant("xoscar", {"echo": "xoscar"}, peer="xoscar_actors", requires="xoscar"),
    Contestant("ray", {"echo": "Ray, one async actor"}, peer="ray_actors", requires="ray", one_cpu_account=False),
)

TARGETS = {"grpc": 12.0, "xoscar": 8.0}

NOTES = (
    "The second line of a cell is the range over the rounds. CPU is that of all processes together.",
    f"Ours: a client of a silo against this row, {MOST} callers, in the same round. Rate: times as many calls.",
    "CPU: times as much CPU that this row needs for a call.",
)


def main(
    *,
    seconds: Seconds = 2.0,
    rounds: Rounds = 5,
    json: Json = None,
    only: Only = None,
    check: Check = False,
) -> None:
    """Measure remote calls of 100 bytes between two processes, with 1, 64 and 256 callers."""
    contestants, skipped = choose(CONTESTANTS, only)
    terms = Terms(CALLERS, seconds, rounds)

    async def measure() -> ExitStatus:
        with Progress() as note:
            samples, failed = await compete(contestants, terms, note)
        comparison = Comparison(contestants, samples)
        rows = comparison.rows()
        report = Report(
            benchmark="calls",
            machine=machine(),
            terms=terms,
            rows=rows,
            targets=[_target(comparison, name, factor) for name, factor in TARGETS.items()],
            skipped=skipped,
            failed=failed,
            samples=samples,
        )
        publish(report, [_table(comparison, rows)], notes=(*NOTES, comparison.elsewhere()), json=json)
        return verdict(failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


def _target(comparison: Comparison, name: str, factor: float) -> Target:
    ratio = rate_ratio(comparison.of("silo", "echo", MOST), comparison.of(name, "echo", MOST))
    return Target.at_least(factor, ratio, f"client to silo against {name}, {MOST} callers")


def _table(comparison: Comparison, rows: list[Row]) -> Table:
    table = new_table("Remote calls of 100 bytes, 100 actors, two processes")
    rates = (f"1000/s\nof {callers}" for callers in CALLERS)
    for name in ("p50 ms\nalone", "p99 ms\nalone", *rates, f"CPU µs\nof {MOST}", "ours\nrate", "ours\nCPU"):
        table.add_column(name, justify="right")
    for first in [row for row in rows if row.callers == CALLERS[0]]:
        same = {row.callers: row for row in rows if (row.contestant, row.work) == (first.contestant, first.work)}
        ours, theirs = (comparison.of(*of, MOST) for of in (("silo", "echo"), (first.contestant, first.work)))
        table.add_row(
            first.title,
            cell(first.p50, ".2f", unit=1e-3),
            cell(first.p99, ".2f", unit=1e-3),
            *(cell(same[callers].rate, ".1f", unit=1e3) for callers in CALLERS),
            cell(same[MOST].cpu, ".1f", unit=1e-6),
            cell(rate_ratio(ours, theirs), ".1f"),
            cell(cpu_ratio(ours, theirs), ".1f"),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
