"""What the demo shows: every session with its silo and the end of its story, live on a terminal, as lines elsewhere."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_COLOURS = {"n1": "cyan", "n2": "magenta", "n3": "yellow"}


@dataclass
class Row:
    """One session as the audience sees it."""

    silo: str = ""
    status: str = ""
    text: str = ""


@dataclass
class Stage:
    """Shows rows as they change. On anything but a terminal only what ``say`` is told is printed."""

    console: Console = field(default_factory=Console)
    rows: dict[str, Row] = field(default_factory=dict)
    _live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=10)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str, *, style: str = "") -> None:
        """A line that stays."""
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def place(self, placements: dict[str, str]) -> None:
        """Where each session lives now; one that is nowhere sleeps."""
        for address, row in self.rows.items():
            row.silo = placements.get(address, "")

    def _table(self) -> Table:
        table = Table(box=None, expand=True, padding=(0, 1))
        table.add_column("SESSION", no_wrap=True)
        table.add_column("SILO", no_wrap=True)
        table.add_column("", no_wrap=True, width=9)
        table.add_column("STORY", no_wrap=True, ratio=1)
        room = max(self.console.width - 40, 20)
        for address, row in self.rows.items():
            silo = Text(row.silo or "asleep", style=_COLOURS.get(row.silo, "dim"))
            table.add_row(
                address, silo, Text(row.status, style="green"), " ".join(row.text[-2 * room :].split())[-room:]
            )
        return table
