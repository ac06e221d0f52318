"""From samples to figures: the spread of each over the rounds, and the ratios of rivals in the same round."""

from collections.abc import Callable, Sequence

import msgspec

from benchmarks.contest import Contestant, Sample
from benchmarks.report import Spread


class Row(msgspec.Struct):
    """One work of one contestant with so many callers. Times in seconds."""

    contestant: str
    work: str
    title: str
    callers: int
    rate: Spread
    p50: Spread
    p99: Spread
    cpu: Spread | None
    """CPU of one call in all processes; None where not all of them are known."""


class Comparison:
    """The samples of one run, looked at from several sides."""

    def __init__(self, contestants: Sequence[Contestant], samples: Sequence[Sample]) -> None:
        self._contestants = contestants
        self._samples = samples

    def rows(self) -> list[Row]:
        """All figures, in the order of the contestants."""
        found: list[Row] = []
        for contestant in self._contestants:
            for work, title in contestant.works.items():
                callers = sorted({sample.callers for sample in self.of(contestant.name, work)})
                found.extend(self._row(contestant.name, work, title, count) for count in callers)
        return found

    def _row(self, contestant: str, work: str, title: str, callers: int) -> Row:
        samples = self.of(contestant, work, callers)
        cpu = [sample.cpu_per_call for sample in samples if sample.cpu]
        return Row(
            contestant,
            work,
            title,
            callers,
            rate=Spread.of([sample.window.rate for sample in samples]),
            p50=Spread.of([sample.window.p50 for sample in samples]),
            p99=Spread.of([sample.window.p99 for sample in samples]),
            cpu=Spread.of(cpu) if cpu else None,
        )

    def of(self, contestant: str, work: str, callers: int | None = None) -> list[Sample]:
        """The samples of one work, round by round."""
        return [
            sample
            for sample in self._samples
            if (sample.contestant, sample.work) == (contestant, work) and callers in (None, sample.callers)
        ]

    def figure(self, contestant: str, work: str, callers: int, figure: Callable[[Sample], float]) -> Spread | None:
        """Any figure of the samples over the rounds; None if there are none."""
        values = [figure(sample) for sample in self.of(contestant, work, callers)]
        return Spread.of(values) if values else None

    def elsewhere(self) -> str:
        """A sentence on what else the machine did."""
        shares = [sample.elsewhere for sample in self._samples if sample.elsewhere is not None]
        if not shares:
            return "How busy the machine was with other things is not known."
        return f"Other programs used {Spread.of(shares).text('.0%')} of the machine's CPU meanwhile."


def rate_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread | None:
    """How many times as many calls a second we make, round by round; None if there is no round with both."""
    rates = {sample.round: sample.window.rate for sample in theirs}
    ratios = [sample.window.rate / rates[sample.round] for sample in ours if sample.round in rates]
    return Spread.of(ratios) if ratios else None


def cpu_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread | None:
    """How many times as much CPU they need for a call, round by round; None if that is not known of both."""
    needed = {sample.round: sample.cpu_per_call for sample in theirs if sample.cpu}
    ratios = [needed[sample.round] / sample.cpu_per_call for sample in ours if sample.cpu and sample.round in needed]
    return Spread.of(ratios) if ratios else None
