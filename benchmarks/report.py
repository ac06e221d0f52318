"""What a benchmark says in the end: a table for people, the same and all samples as JSON for programs."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 120
_PACKAGES = ("agentsilo", "grpcio", "msgspec", "protobuf", "uvloop", "xoscar", "ray")


class Spread(msgspec.Struct, frozen=True):
    """A figure that was measured in every round: its median, least and greatest value."""

    median: float
    least: float
    greatest: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """The spread of one value or more."""
        return Spread(statistics.median(values), min(values), max(values))

    def text(self, spec: str = ",.1f") -> str:
        """The same in one line."""
        return f"{self.median:{spec}} ({self.least:{spec}} to {self.greatest:{spec}})"


def cell(figure: Spread | None, spec: str, *, unit: float = 1.0) -> str:
    """Two lines for a table: the median, and the range if there is one. ``unit`` divides the values."""
    if figure is None:
        return ""
    median, least, greatest = (format(value / unit, spec) for value in (figure.median, figure.least, figure.greatest))
    return median if least == greatest else f"{median}\n[dim]{least}-{greatest}[/]"


def new_table(title: str) -> Table:
    """A table whose first column has no name."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


class Target(msgspec.Struct, frozen=True):
    """What was aimed at, and what came out; ``measured`` None if its peer did not take part."""

    what: str
    target: float
    measured: Spread | None
    met: bool
    """Whether the median meets it."""

    @staticmethod
    def at_least(target: float, measured: Spread | None, what: str) -> "Target":
        """More is better."""
        return Target(what, target, measured, measured is not None and measured.median >= target)

    @staticmethod
    def at_most(target: float, measured: Spread | None, what: str) -> "Target":
        """Less is better."""
        return Target(what, target, measured, measured is not None and measured.median <= target)


class Report(msgspec.Struct, kw_only=True):
    """The outcome of one run of one benchmark."""

    benchmark: str
    machine: dict[str, str | int]
    terms: Any
    """Under which conditions: seconds, rounds, sizes."""
    rows: list[Any]
    """The figures, as the benchmark defines them."""
    targets: list[Target]
    skipped: dict[str, str] = {}
    """Contestants that did not take part, and why."""
    failed: dict[str, str] = {}
    """Contestants that broke down, and why."""
    samples: list[Any] = []
    """Everything that was measured, round by round."""


def machine() -> dict[str, str | int]:
    """What the figures depend on and what can be told without naming anybody's computer."""
    found: dict[str, str | int] = {
        "cores": os.cpu_count() or 0,
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def publish(report: Report, tables: Sequence[Table], *, notes: Sequence[str], json: Path | None) -> None:
    """Print the tables with their targets and notes; write the JSON to a file, or instead of that with ``-``."""
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=2)
    if json == Path("-"):
        sys.stdout.write(encoded.decode() + "\n")
        return
    if json is not None:
        json.write_bytes(encoded + b"\n")
    console = Console()
    console = Console(width=max(console.width, _WIDTH))  # a narrow terminal may break lines, but no figure is cut off
    for table in tables:
        console.print(table)
    for target in report.targets:
        console.print(_verdict(target))
    for name, reason in report.skipped.items():
        console.print(f"{name} did not take part: {reason}")
    for name, reason in report.failed.items():
        console.print(f"[red]{name} failed:[/] {reason}", highlight=False)
    for note in notes:
        console.print(f"[dim]{note}[/]", highlight=False)


def _verdict(target: Target) -> str:
    if target.measured is None:
        return f"{target.what}: not measured"
    verdict = "[green]met[/]" if target.met else "[red]missed[/]"
    return f"{target.what}: {target.measured.text()}, target {target.target:,g}: {verdict}"


class Progress:
    """Says on stderr what is going on: one line that changes on a terminal, else a line for each step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, text: str) -> None:
        """The next step."""
        if self._status is not None:
            self._status.update(text)
        else:
            self._console.print(text, soft_wrap=True, markup=False)
