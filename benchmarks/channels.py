"""Durable Streams over HTTP, against the protocol's reference server: ``python -m benchmarks.channels --help``.

Ours is durable: an append is answered when SQLite has synced it to disk. The reference server keeps everything in
memory and loses it when it ends.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from benchmarks import idle_subscribers
from benchmarks.command import Check, Json, Only, Rounds, Seconds, choose, execute, verdict
from benchmarks.comparison import Comparison, Row, rate_ratio
from benchmarks.contest import Contestant, Sample, Terms, compete
from benchmarks.idle_subscribers import KINDS, Measured, raise_file_limit
from benchmarks.node import NodeMissing, install_packages
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from benchmarks.stream_load import STREAMS
from cluster.exit_status import ExitStatus

WRITERS = (1, 16, 64)
READERS = (1, 100, 1_000)
SUBSCRIBERS = 10_000

OURS, REFERENCE, HTTP = "gateway", "reference", "http"
TITLES = {
    OURS: "agentsilo, durable (SQLite)",
    HTTP: "its HTTP server, appending nothing",
    REFERENCE: "reference (Node.js), in memory",
}
PEERS = {OURS: "gateway", HTTP: "http_only", REFERENCE: "reference_streams"}
USUAL = (OURS, REFERENCE)
"""The others only take part if they are named."""
APPENDS = {
    "json_one": "JSON, one stream",
    "json_many": f"JSON, {STREAMS} streams",
    "text_one": "text, one stream",
    "text_many": f"text, {STREAMS} streams",
}
READING = {"publish": "publish to readers"}

TARGET_APPENDS = 0.5
TARGET_READERS, TARGET_LATENCY = 100, 10e-3
TARGET_MEMORY = 20_000.0

NOTES = (
    "The second line of a cell is the range over the rounds. Ours syncs to disk before it answers, theirs never.",
    "CPU: of an append with most writers, or of a delivery, in the server and in the process that makes the load.",
    "Ours, in the same round: how many times as many appends a second we take, with how many times as much CPU.",
)


class Part(StrEnum):
    """What can be measured on its own."""

    appends = "appends"
    readers = "readers"
    idle = "idle"


class Outcome(msgspec.Struct):
    """All that was measured, and who failed."""

    appends: list[Sample] = []
    readers: list[Sample] = []
    idle: list[Measured] = []
    failed: dict[str, str] = {}


class IdleRow(msgspec.Struct):
    """Idle subscribers of one server. Bytes and seconds."""

    contestant: str
    kind: str
    subscribers: int
    bytes_each: Spread
    connecting: Spread
    heard_after: Spread | None


def main(
    *,
    seconds: Seconds = 2.0,
    rounds: Rounds = 3,
    writers: Annotated[
        list[int] | None, typer.Option(min=1, help="Writers at a time; repeatable. Default: 1, 16, 64.")
    ] = None,
    readers: Annotated[
        list[int] | None, typer.Option(min=1, help="Live readers; repeatable. Default: 1, 100, 1000.")
    ] = None,
    subscribers: Annotated[int, typer.Option(min=2, help="Idle subscribers of one silo.")] = SUBSCRIBERS,
    part: Annotated[list[Part] | None, typer.Option(help="What to measure; repeatable. Default: all.")] = None,
    json: Json = None,
    only: Only = None,
    check: Check = False,
) -> None:
    """Measure appends, the way from publisher to readers, and idle subscribers, over HTTP."""
    names = PEERS if only else USUAL
    contestants, skipped = choose([Contestant(name, APPENDS, peer=PEERS[name]) for name in names], only)
    if any(contestant.name == REFERENCE for contestant in contestants):
        try:
            install_packages()
        except NodeMissing as error:
            skipped[REFERENCE] = str(error)
            contestants = [contestant for contestant in contestants if contestant.name != REFERENCE]
    parts = part or list(Part)
    writing = Terms(tuple(sorted(writers or WRITERS)), seconds, rounds)
    reading = Terms(tuple(sorted(readers or READERS)), seconds, rounds)
    try:
        raise_file_limit(max(*reading.callers, *writing.callers, subscribers if Part.idle in parts else 0))
    except OSError as error:
        raise typer.BadParameter(str(error)) from None

    async def measure() -> ExitStatus:
        with Progress() as note:
            outcome = await _measure(contestants, parts, writing, reading, subscribers=subscribers, note=note)
        written = Comparison(contestants, outcome.appends)
        read = Comparison(_as_publishers(contestants), outcome.readers)
        idle = _idle_rows(outcome.idle)
        report = Report(
            benchmark="channels",
            machine=machine(),
            terms={"writing": writing, "reading": reading, "subscribers": subscribers},
            rows=[*written.rows(), *read.rows(), *idle],
            targets=list(_targets(parts, written, read, idle)),
            skipped=skipped,
            failed=outcome.failed,
            samples=[*outcome.appends, *outcome.readers, *outcome.idle],
        )
        tables = [
            *([_append_table(written, writing.callers)] if outcome.appends else []),
            *([_reader_table(read)] if outcome.readers else []),
            *([_idle_table(idle)] if idle else []),
        ]
        everything = Comparison(contestants, [*outcome.appends, *outcome.readers])
        publish(report, tables, notes=(*NOTES, everything.elsewhere()), json=json)
        return verdict(outcome.failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


async def _measure(
    contestants: Sequence[Contestant],
    parts: Sequence[Part],
    writing: Terms,
    reading: Terms,
    *,
    subscribers: int,
    note: Progress,
) -> Outcome:
    outcome = Outcome()
    if Part.appends in parts:
        outcome.appends, failed = await compete(contestants, writing, note)
        outcome.failed |= failed
    contestants = [contestant for contestant in contestants if contestant.name != HTTP]
    if Part.readers in parts:
        outcome.readers, failed = await compete(_as_publishers(contestants), reading, note)
        outcome.failed |= failed
    if Part.idle in parts:
        outcome.idle, failed = await idle_subscribers.measure(contestants, subscribers, reading, note)
        outcome.failed |= failed
    return outcome


def _as_publishers(contestants: Sequence[Contestant]) -> list[Contestant]:
    """The same servers, where "callers" are readers and a call is a message that all of them get."""
    return [Contestant(contestant.name, READING, peer=contestant.peer) for contestant in contestants]


def _targets(parts: Sequence[Part], written: Comparison, read: Comparison, idle: Sequence[IdleRow]) -> Iterator[Target]:
    if Part.appends in parts:
        most = max((row.callers for row in written.rows()), default=0)
        for work, title in APPENDS.items():
            ratio = rate_ratio(written.of(OURS, work, most), written.of(REFERENCE, work, most))
            what = f"appends a second against the reference, {title}, {most} writers"
            yield Target.at_least(TARGET_APPENDS, ratio, what)
    if Part.readers in parts:
        latency = read.figure(OURS, "publish", TARGET_READERS, lambda sample: sample.window.p50 * 1e3)
        what = f"ms from publisher to reader, p50, {TARGET_READERS} readers"
        yield Target.at_most(TARGET_LATENCY * 1e3, latency, what)
    if Part.idle in parts:
        ours = {row.kind: row for row in idle if row.contestant == OURS}
        for kind, title in KINDS.items():
            each = ours[kind].bytes_each if kind in ours else None
            yield Target.at_most(TARGET_MEMORY, each, f"bytes of an idle subscriber {title}")
        connected = Spread.of([row.subscribers for row in ours.values()]) if ours else None
        yield Target.at_least(SUBSCRIBERS, connected, "idle subscribers of one silo")


def _append_table(comparison: Comparison, writers: Sequence[int]) -> Table:
    most = writers[-1]
    table = new_table("Appends of 100 bytes over HTTP")
    rates = (f"appends/s\nof {count}" for count in writers)
    cpu = "CPU µs\nserver", "CPU µs\nload"
    for name in (*rates, f"p50 ms\nof {most}", *cpu, "ours\nrate", "ours\nCPU"):
        table.add_column(name, justify="right")
    for name, title in TITLES.items():
        rows = [row for row in comparison.rows() if row.contestant == name]
        if rows:
            table.add_row(title)
        for work, work_title in APPENDS.items():
            same = {row.callers: row for row in rows if row.work == work}
            if same:
                theirs = comparison.of(name, work, most) if name != OURS else []
                table.add_row(
                    f"  {work_title}",
                    *(cell(same[count].rate, ",.0f") for count in writers),
                    cell(same[most].p50, ".1f", unit=1e-3),
                    *(cell(_cpu(comparison, same[most], of), ",.0f", unit=1e-6) for of in ("servers", "caller")),
                    cell(rate_ratio(comparison.of(OURS, work, most), theirs), ".2f"),
                    cell(_server_ratio(comparison.of(OURS, work, most), theirs), ".1f"),
                )
    return table


def _server_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread | None:
    """How many times as much CPU our server needs for an append, round by round."""
    needed = {sample.round: sample.cpu["servers"] for sample in theirs if sample.cpu}
    ratios = [sample.cpu["servers"] / needed[sample.round] for sample in ours if needed.get(sample.round)]
    return Spread.of(ratios) if ratios else None


def _cpu(comparison: Comparison, row: Row, of: str) -> Spread | None:
    return comparison.figure(row.contestant, row.work, row.callers, lambda sample: sample.cpu.get(of, 0.0))


def _reader_table(comparison: Comparison) -> Table:
    table = new_table("From a publisher to each of its live readers (SSE), one message of 100 bytes after the other")
    for name in ("readers", "p50 ms", "p99 ms", "messages/s", "CPU µs a\ndelivery, server", "CPU µs a\ndelivery, load"):
        table.add_column(name, justify="right")
    for row in comparison.rows():
        table.add_row(
            TITLES[row.contestant],
            f"{row.callers:,}",
            cell(row.p50, ".2f", unit=1e-3),
            cell(row.p99, ".2f", unit=1e-3),
            cell(row.rate, ",.0f"),
            *(cell(_cpu(comparison, row, of), ",.1f", unit=1e-6 * row.callers) for of in ("servers", "caller")),
        )
    return table


def _idle_rows(measured: Sequence[Measured]) -> list[IdleRow]:
    rows = []
    for name, kind in dict.fromkeys((one.contestant, one.kind) for one in measured):
        same = [one for one in measured if (one.contestant, one.kind) == (name, kind)]
        heard = [one.heard_after for one in same if one.heard_after is not None]
        rows.append(
            IdleRow(
                name,
                kind,
                same[0].subscribers,
                bytes_each=Spread.of([one.bytes_each for one in same]),
                connecting=Spread.of([one.connecting for one in same]),
                heard_after=Spread.of(heard) if heard else None,
            )
        )
    return rows


def _idle_table(rows: Sequence[IdleRow]) -> Table:
    table = new_table("Connected idle subscribers (SSE)")
    for name in (
        "",
        "subscribers",
        "bytes each\nin the server",
        "seconds to\nconnect all",
        "ms until all\nhad a message",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            TITLES[row.contestant],
            KINDS[row.kind],
            f"{row.subscribers:,}",
            cell(row.bytes_each, ",.0f"),
            cell(row.connecting, ".1f"),
            cell(row.heard_after, ",.0f", unit=1e-3),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
