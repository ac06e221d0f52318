"""Ten times what one silo can do, for a minute: ``python -m benchmarks.overload --help``.

First a closed loop of callers finds the rate that the silo sustains. Then clients offer ten times that in an open loop:
calls begin at their time, whether earlier ones were answered or not. Beside them a polite client makes few calls, to
the same actors. All is of one clock, that all processes of the machine share (Linux).
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from benchmarks.command import Check, Json, Only, Rounds, check_names, execute, verdict
from benchmarks.flooding import Flood, Offer, Offered
from benchmarks.footprint import resident_memory
from benchmarks.load import Window
from benchmarks.peer import Place
from benchmarks.process import Worker, WorkerFailed, start_process, start_worker
from benchmarks.report import Progress, Report, Spread, Target, cell, machine, new_table, publish
from cluster.exit_status import ExitStatus

KINDS = {"clerk": "turns that compute 0.5 ms", "ledger": "durable turns of 10 steps, SQLite"}
FACTOR = 10
CALLERS = 64
POLITE_RATE = 20.0
RECOVERY = 1.0  # seconds after which things are to be normal again, once what was accepted is worked off

_LIMIT = 150.0  # seconds for the last answers of an offer
_SAMPLE_EVERY = 0.25
_CALM = 10.0


class Memory(msgspec.Struct):
    """Bytes of RAM that the silo held."""

    before: int
    after_quarter: int
    most: int
    afterwards: int


class Sample(msgspec.Struct):
    """One kind of actor in one round."""

    kind: str
    round: int
    sustained: float
    """Calls a second of the closed loop."""
    calm: Offered
    """The polite client alone."""
    greedy: list[Offered]
    polite: Offered
    """Beside the greedy ones."""
    after: list[Offered]
    """The polite client, from when the others had made their last call."""
    recovered: float
    """Seconds from their last call until the last second with late answers to the polite one was over."""
    memory: Memory


class Row(msgspec.Struct):
    """One kind of actor. Times in seconds, memory in bytes."""

    kind: str
    title: str
    sustained: Spread
    offered: Spread
    """Times the sustained rate."""
    goodput: Spread
    """Of the sustained rate."""
    refused: Spread
    """Of the calls of the greedy ones."""
    failed: Spread
    """The same, for what ended otherwise."""
    refusal_p50: Spread
    refusal_p99: Spread
    answer_p50: Spread
    answer_p99: Spread
    calm_p50: Spread
    calm_p99: Spread
    polite_failed: Spread
    """Calls of the polite one that were not answered."""
    polite_p50: Spread
    polite_p99: Spread
    backlog: Spread
    """Calls of the greedy ones that were accepted and not answered when they made the last one."""
    worked_off: Spread
    """From then until the last of them was answered."""
    work: Spread
    """How long they would take at the sustained rate."""
    recovered: Spread
    memory_before: Spread
    memory_after_quarter: Spread
    memory_most: Spread


class Terms(msgspec.Struct, frozen=True):
    """What is the same for all rounds."""

    seconds: float
    rounds: int
    clients: int
    actors: int
    afterwards: float
    factor: int = FACTOR
    callers: int = CALLERS
    polite_rate: float = POLITE_RATE


def main(
    *,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long the overload lasts.")] = 60.0,
    rounds: Rounds = 1,
    clients: Annotated[int, typer.Option(min=1, help="Greedy clients, each a process.")] = 3,
    actors: Annotated[int, typer.Option(min=1, help="Actors that all of them call.")] = 20,
    afterwards: Annotated[
        float, typer.Option(min=0.05, help="How long the polite client goes on when the others have their answers.")
    ] = 10.0,
    json: Json = None,
    only: Only = None,
    check: Check = False,
) -> None:
    """Offer a silo ten times what it sustains, and look what becomes of it, and of a polite client."""
    check_names(only, list(KINDS))
    terms = Terms(seconds, rounds, clients, actors, afterwards)

    async def measure() -> ExitStatus:
        samples: list[Sample] = []
        failed: dict[str, str] = {}
        with Progress() as note:
            for number in range(1, rounds + 1):
                for kind in [kind for kind in KINDS if not only or kind in only]:
                    try:
                        samples.append(await _measure(kind, number, terms, note))
                    except (WorkerFailed, OSError) as error:
                        failed[kind] = str(error)
        rows = [_row(kind, found) for kind in KINDS if (found := [one for one in samples if one.kind == kind])]
        report = Report(
            benchmark="overload",
            machine=machine(),
            terms=terms,
            rows=rows,
            targets=[target for row in rows for target in _targets(row)],
            failed=failed,
            samples=samples,
        )
        publish(report, [_table(rows, terms)] if rows else [], notes=NOTES, json=json)
        return verdict(failed, met=all(target.met for target in report.targets) or not check)

    execute(measure)


async def _measure(kind: str, number: int, terms: Terms, note: Callable[[str], None]) -> Sample:
    title = f"round {number} of {terms.rounds}: {KINDS[kind]}"
    async with _arena(kind, terms) as (silo, polite, greedy):
        note(f"{title}: the rate that it sustains")
        calm_seconds = min(terms.seconds, _CALM)
        closed_loop = Offer(calm_seconds / 2, callers=CALLERS)
        await greedy[0].ask(closed_loop, Window, within=calm_seconds + _LIMIT)  # warms up
        window = await greedy[0].ask(closed_loop, Window, within=calm_seconds + _LIMIT)
        calm = await _offer(polite, Offer(calm_seconds, POLITE_RATE))
        note(f"{title}: {FACTOR} times {window.rate:,.0f} calls a second")
        before, watching = resident_memory(silo.pid), asyncio.create_task(_watch(silo.pid))
        flood = Offer(terms.seconds, window.rate * FACTOR / terms.clients)
        offers = [asyncio.create_task(_offer(one, flood)) for one in greedy]
        beside = await _offer(polite, Offer(terms.seconds, POLITE_RATE))
        note(f"{title}: afterwards")
        normal = 2 * calm.answer_p99
        after = []
        while not all(offer.done() for offer in offers):
            after.append(await _offer(polite, Offer(1.0, POLITE_RATE, normal=normal)))
        after.append(await _offer(polite, Offer(terms.afterwards, POLITE_RATE, normal=normal)))
        flooded = await asyncio.gather(*offers)
        watching.cancel()
        memory = await watching
        ended = max(one.ended for one in flooded)
        return Sample(
            kind, number, window.rate, calm, flooded, beside, after,
            max(*(one.late_until for one in after), ended) - ended,
            Memory(before, _at(memory, terms.seconds / 4), max(used for _, used in memory), resident_memory(silo.pid)),
        )  # fmt: skip


async def _offer(worker: Worker, offer: Offer) -> Offered:
    return await worker.ask(offer, Offered, within=offer.seconds + _LIMIT)


async def _watch(pid: int) -> list[tuple[float, int]]:
    """The memory of a process over time, until cancelled."""
    began, found = time.monotonic(), list[tuple[float, int]]()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            found.append((time.monotonic() - began, resident_memory(pid)))
            await asyncio.sleep(_SAMPLE_EVERY)
    return found


def _at(memory: Sequence[tuple[float, int]], seconds: float) -> int:
    """The most that there was until then."""
    return max(used for when, used in memory if when <= seconds or used == memory[0][1])


@contextlib.asynccontextmanager
async def _arena(kind: str, terms: Terms) -> AsyncIterator[tuple[Worker, Worker, list[Worker]]]:
    """The silo, the polite client, and the greedy ones."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        place = Place(store=f"sqlite:///{folder}/state.db")
        silo = await stack.enter_async_context(start_worker("overloaded", "serve", place))
        flood = msgspec.json.encode(Flood(silo.endpoint, kind, terms.actors)).decode()
        clients = [
            await stack.enter_async_context(start_process(title, ["benchmarks.flooding", flood]))
            for title in ("polite client", *[f"greedy client {number + 1}" for number in range(terms.clients)])
        ]
        yield silo, clients[0], clients[1:]


def _row(kind: str, samples: Sequence[Sample]) -> Row:
    def spread(figure: Callable[[Sample], float]) -> Spread:
        return Spread.of([figure(one) for one in samples])

    def of_all(one: Sample, what: Callable[[Offered], float]) -> float:
        return sum(map(what, one.greedy))

    def share(one: Sample, what: Callable[[Offered], float]) -> float:
        return of_all(one, what) / max(of_all(one, lambda offered: offered.calls), 1)

    return Row(
        kind,
        KINDS[kind],
        sustained=spread(lambda one: one.sustained),
        offered=spread(lambda one: of_all(one, lambda offered: offered.calls / offered.seconds) / one.sustained),
        goodput=spread(
            lambda one: of_all(one, lambda offered: offered.answered_in_time / offered.seconds) / one.sustained
        ),
        refused=spread(lambda one: share(one, lambda offered: offered.refused)),
        failed=spread(lambda one: share(one, lambda offered: sum(offered.failed.values()))),
        refusal_p50=spread(lambda one: max(offered.refusal_p50 for offered in one.greedy)),
        refusal_p99=spread(lambda one: max(offered.refusal_p99 for offered in one.greedy)),
        answer_p50=spread(lambda one: max(offered.answer_p50 for offered in one.greedy)),
        answer_p99=spread(lambda one: max(offered.answer_p99 for offered in one.greedy)),
        calm_p50=spread(lambda one: one.calm.answer_p50),
        calm_p99=spread(lambda one: one.calm.answer_p99),
        polite_failed=spread(lambda one: one.polite.refused + sum(one.polite.failed.values())),
        polite_p50=spread(lambda one: one.polite.answer_p50),
        polite_p99=spread(lambda one: one.polite.answer_p99),
        backlog=spread(_backlog),
        worked_off=spread(_worked_off),
        work=spread(lambda one: _backlog(one) / one.sustained),
        recovered=spread(lambda one: one.recovered),
        memory_before=spread(lambda one: one.memory.before),
        memory_after_quarter=spread(lambda one: one.memory.after_quarter),
        memory_most=spread(lambda one: one.memory.most),
    )


def _backlog(one: Sample) -> int:
    return sum(offered.answered - offered.answered_in_time for offered in one.greedy)


def _worked_off(one: Sample) -> float:
    return max(offered.until_last_answer for offered in one.greedy)


def _targets(row: Row) -> list[Target]:
    grown = Spread.of([row.memory_most.median / row.memory_after_quarter.median])
    slower = Spread.of([row.worked_off.median / max(row.work.median, 1.0)])
    late = Spread.of([max(row.recovered.median - row.worked_off.median, 0.0)])
    return [
        Target.at_least(0.5, row.goodput, f"{row.title}: answers a second, of the sustained rate"),
        Target.at_most(0.0, row.polite_failed, f"{row.title}: calls of the polite client that were not answered"),
        Target.at_most(1.2, grown, f"{row.title}: the most memory, of that after a quarter of the time"),
        Target.at_most(1.5, slower, f"{row.title}: time to work off what was accepted, of that at the sustained rate"),
        Target.at_most(RECOVERY, late, f"{row.title}: seconds from then until things are normal again"),
    ]


NOTES = (
    "Refused: MailboxFull and the like, certainly not run. Goodput: answers while the greedy clients called.",
    "Normal again: no second follows in which over a tenth of the polite client's answers take twice its p99 alone.",
)


def _table(rows: Sequence[Row], terms: Terms) -> Table:
    table = new_table(
        f"{terms.clients} greedy clients for {terms.seconds:g} s, one polite one with {POLITE_RATE:g} calls a second"
    )
    for row in rows:
        table.add_column(row.title, justify="right")
    lines: list[tuple[str, Callable[[Row], Spread], str, float]] = [
        ("sustained calls/s", lambda row: row.sustained, ",.0f", 1.0),
        ("offered, times that", lambda row: row.offered, ".1f", 1.0),
        ("goodput, of that", lambda row: row.goodput, ".2f", 1.0),
        ("refused, of all", lambda row: row.refused, ".3f", 1.0),
        ("failed otherwise, of all", lambda row: row.failed, ".3f", 1.0),
        ("ms to refuse, p50", lambda row: row.refusal_p50, ",.1f", 1e-3),
        ("ms to refuse, p99", lambda row: row.refusal_p99, ",.1f", 1e-3),
        ("ms to answer, p50", lambda row: row.answer_p50, ",.0f", 1e-3),
        ("ms to answer, p99", lambda row: row.answer_p99, ",.0f", 1e-3),
        ("polite alone: ms, p50", lambda row: row.calm_p50, ",.1f", 1e-3),
        ("polite alone: ms, p99", lambda row: row.calm_p99, ",.1f", 1e-3),
        ("polite: not answered", lambda row: row.polite_failed, ".0f", 1.0),
        ("polite: ms, p50", lambda row: row.polite_p50, ",.0f", 1e-3),
        ("polite: ms, p99", lambda row: row.polite_p99, ",.0f", 1e-3),
        ("accepted, to be worked off", lambda row: row.backlog, ",.0f", 1.0),
        ("s of work at that rate", lambda row: row.work, ".1f", 1.0),
        ("worked off after s", lambda row: row.worked_off, ".1f", 1.0),
        ("normal again after s", lambda row: row.recovered, ".1f", 1.0),
        ("silo's MB before", lambda row: row.memory_before, ",.0f", 1e6),
        ("after a quarter", lambda row: row.memory_after_quarter, ",.0f", 1e6),
        ("at most", lambda row: row.memory_most, ",.0f", 1e6),
    ]
    for title, figure, spec, unit in lines:
        table.add_row(title, *(cell(figure(row), spec, unit=unit) for row in rows))
    return table


if __name__ == "__main__":
    typer.run(main)
