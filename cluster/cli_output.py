"""How the subcommands of ``silo`` print: tables and values for people, JSON for programs."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

_LONGEST_TEXT = 200
_MOST_ITEMS = 8
_MOST_FIELDS = 40
_DEEPEST = 6


def as_line(value: object) -> str:
    """The value as JSON in one line, without characters that a terminal would obey."""
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def printable(text: str) -> str:
    """The text without characters that a terminal would obey; lines stay lines."""
    return "\n".join("".join(map(_escaped, line)) for line in text.split("\n"))


def in_short(value: object, depth: int = 0) -> object:
    """The value without most of what is long in it."""
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_LONGEST_TEXT]}... ({len(value)} characters)"
    if depth >= _DEEPEST and isinstance(value, dict | list) and value:
        return f"... ({len(value)} items)"
    if isinstance(value, list):
        items = [in_short(item, depth + 1) for item in value]
        if len(items) > _MOST_ITEMS:
            items[2 : 2 - _MOST_ITEMS] = [f"... ({len(items) - _MOST_ITEMS} more) ..."]
        return items
    if isinstance(value, dict):
        fields = {name: in_short(item, depth + 1) for name, item in list(value.items())[:_MOST_FIELDS]}
        return fields if len(value) <= _MOST_FIELDS else {**fields, "...": f"({len(value) - _MOST_FIELDS} more)"}
    return value


def one_line(value: object, width: int = 80) -> str:
    """A value in short, in one line."""
    line = as_line(in_short(value))
    return line if len(line) <= width else f"{line[: width - 3]}..."


def indented(value: object) -> str:
    """A value in short, over several lines."""
    text = msgspec.json.format(as_line(in_short(value)), indent=2)
    return "\n".join(f"  {line}" for line in text.split("\n"))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 0) -> None:
    """A table that fits the terminal; elsewhere every row is one line, and nothing is cut."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in header:
            table.add_column(name, overflow="fold")  # an id that is cut cannot be copied
        for row in cells:
            table.add_row(*row)
        Console(markup=False, emoji=False, highlight=False).print(Padding(table, (0, 0, 0, indent), expand=False))
        return
    lines = [list(header), *cells]
    widths = [max(len(row[column]) for row in lines) for column in range(len(header))]
    for row in lines:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(" " * indent + line.rstrip())


def local_time(iso: str) -> str:
    """A time in the time zone of whoever reads it."""
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except ValueError:
        return iso


def age(iso: str) -> str:
    """How long ago that was, roughly."""
    try:
        seconds = max((datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds(), 0)
    except ValueError:
        return "?"
    return span(round(seconds))


def span(seconds: float) -> str:
    """A span of time in its largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.3g}s" if seconds < 10 else f"{seconds:.0f}s"
