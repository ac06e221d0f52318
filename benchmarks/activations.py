"""First calls to fresh actors through a real etcd: ``python -m benchmarks.activations --help``.

Each call goes from a client process to an address that was never used before: a silo claims it in etcd, which syncs
its log to disk, activates the actor and answers. The rivals create an actor instead, each in its own way.
"""

from collections.abc import Sequence

import typer
from rich.table import Table

from benchmarks.command import Check, Json, Only, Rounds, Seconds, choose, execute, verdict
from benchmarks.comparison import Comparison, Row, rate_ratio
from benchmarks.contest import Contestant, Sample, Terms, compete
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from cluster.exit_status import ExitStatus

CALLERS = (64, 256)
MOST = CALLERS[-1]
KINDS = ("caller", "servers", "etcd")
RAY_CALLERS = 4  # each Ray actor starts a process

CONTESTANTS = (
    Contestant(
        "silo",
        {"activate": "agentsilo, 1 silo", "activate_keeper": "  same, with a state"},
        peer="silo",
        etcd=True,
    ),
    Contestant("3-silos", {"activate": "agentsilo, 3 silos"}, peer="silo", servers=3, etcd=True),
    Contestant("claims", {"activate": "claims in etcd alone"}, peer="directory_claims", etcd=True),
    Contestant("xoscar", {"activate": "xoscar create_actor"}, peer="xoscar_actors", requires="xoscar"),
    Contestant(
        "ray",
        {"activate": "Ray actor creation"},
        peer="ray_actors",
        requires="ray",
        most_callers=RAY_CALLERS,
        one_cpu_account=False,
    ),
)

TARGET_RATE = 3000.0
TARGET_RATIO = 3.0

NOTES = (
    "An actor with a state opens it in a SQLite store, which syncs to disk. Ray's row includes the first call.",
    "The second line of a cell is the range over the rounds. CPU is that of one activation, by kind of process.",
    "Ours: how many times as many activations a second one silo makes in the same round, with as many callers.",
    f"Each Ray actor starts a process: it has {RAY_CALLERS} callers and is compared with one silo at {MOST}.",
)


def main(
    *,
    seconds: Seconds = 2.0,
    rounds: Rounds = 5,
    json: Json = None,
    only: Only = None,
    check: Check = False,
) -> None:
    """Measure first calls to fresh actors, through a real etcd, with 64 and 256 callers."""
    contestants, skipped = choose(CONTESTANTS, only)
    terms = Terms(CALLERS, seconds, rounds)

    async def measure() -> ExitStatus:
        with Progress() as note:
            samples, failed = await compete(contestants, terms, note)
        comparison = Comparison(contestants, samples)
        rows = comparison.rows()
        report = Report(
            benchmark="activations",
            machine=machine(),
            terms=terms,
            rows=rows,
            targets=_targets(comparison),
            skipped=skipped,
            failed=failed,
            samples=samples,
        )
        publish(report, [_table(comparison, rows)], notes=(*NOTES, comparison.elsewhere()), json=json)
        return verdict(failed, met=any(target.met for target in report.targets) or not check)

    execute(measure)


def _targets(comparison: Comparison) -> list[Target]:
    """Either of the two is enough."""
    rate = comparison.figure("silo", "activate", MOST, lambda sample: sample.window.rate)
    ratio = _ours_to(comparison, comparison.of("xoscar", "activate", MOST))
    return [
        Target.at_least(TARGET_RATE, rate, f"activations a second, 1 silo, {MOST} callers"),
        Target.at_least(TARGET_RATIO, ratio, f"or 1 silo against xoscar, {MOST} callers"),
    ]


def _ours_to(comparison: Comparison, theirs: Sequence[Sample]) -> Spread | None:
    callers = theirs[0].callers if theirs else MOST
    return rate_ratio(comparison.of("silo", "activate", callers if callers in CALLERS else MOST), theirs)


def _table(comparison: Comparison, rows: Sequence[Row]) -> Table:
    table = new_table("Activations: first calls to fresh actors")
    cpu = [f"CPU µs\n{kind}" for kind in KINDS]
    for name in ("callers", "a second", "p50 ms", "p99 ms", *cpu, "claims\na write", "ours\nrate"):
        table.add_column(name, justify="right")
    for row in rows:
        samples = comparison.of(row.contestant, row.work, row.callers)
        used = [_spread([sample.cpu[kind] for sample in samples if kind in sample.cpu]) for kind in KINDS]
        table.add_row(
            row.title,
            str(row.callers),
            cell(row.rate, ",.0f"),
            cell(row.p50, ".1f", unit=1e-3),
            cell(row.p99, ".1f", unit=1e-3),
            *(cell(figure, ".0f", unit=1e-6) for figure in used),
            cell(_spread([s.counts["writes"] / s.counts["groups"] for s in samples if s.counts.get("groups")]), ".1f"),
            cell(_ours_to(comparison, samples), ".1f"),
        )
    return table


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread.of(values) if values else None


if __name__ == "__main__":
    typer.run(main)
