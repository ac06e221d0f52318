"""Many rows to and from SQLite in few steps.

Python's sqlite3 gives up the interpreter lock for every row that it writes or reads, and gets it back from a busy
event loop only after some milliseconds. A step per row would make a busy silo hundreds of times slower. So rows go in
as the VALUES of one statement, and come out as one wide row, or as one text in which everything is hexadecimal.
Statements are made for 1, 2, 4, ... rows and filled up with NULLs, so that each size is compiled once.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, Final, TypeAlias

Value: TypeAlias = str | int | float | bytes | None

# Times the columns of a row, this is far below the 32,766 parameters that a statement may have.
_ROWS_AT_ONCE: Final = 1024


def execute(connection: sqlite3.Connection, template: str, rows: Collection[tuple[Value, ...]]) -> None:
    """Run a statement with the rows, all of one length, in the place of ``{rows}``.

    Rows of NULLs are among them: the statement has to pass over these.
    """
    for part in _parts(rows):
        connection.execute(*_filled(template, part))


def select_texts(connection: sqlite3.Connection, template: str, rows: Collection[tuple[Value, ...]]) -> Iterator[str]:
    """Like ``execute``, for a statement that answers one text or NULL: the texts."""
    for part in _parts(rows):
        (text,) = connection.execute(*_filled(template, part)).fetchone()
        if text is not None:
            yield text


def select_wide(
    connection: sqlite3.Connection, columns: str, rows: Sequence[tuple[Value, ...]], *, width: int = 64
) -> Iterator[tuple[Any, ...]]:
    """For each row of parameters, the values of the columns, in which ``{0}``, ``{1}``, ... stand for the parameters.

    ``width`` is for how many rows that is done at once; times the columns it has to stay below SQLite's 2,000.
    """
    for start in range(0, len(rows), width):
        part = rows[start : start + width]
        size, parameters = _padded_parameters(part)
        found = connection.execute(_wide(columns, len(part[0]), size), parameters).fetchone()
        yield from islice(zip(*[iter(found)] * (len(found) // size), strict=True), len(part))


def _parts(rows: Collection[tuple[Value, ...]]) -> Iterator[list[tuple[Value, ...]]]:
    iterator = iter(rows)
    while part := list(islice(iterator, _ROWS_AT_ONCE)):
        yield part


def _filled(template: str, rows: list[tuple[Value, ...]]) -> tuple[str, list[Value]]:
    size, parameters = _padded_parameters(rows)
    return _statement(template, len(rows[0]), size), parameters


def _padded_parameters(rows: Sequence[tuple[Value, ...]]) -> tuple[int, list[Value]]:
    size = 1 << (len(rows) - 1).bit_length()
    parameters = list(chain.from_iterable(rows))
    parameters += [None] * (size * len(rows[0]) - len(parameters))
    return size, parameters


@cache
def _statement(template: str, columns: int, size: int) -> str:
    row = "(" + ", ".join("?" * columns) + ")"
    return template.format(rows=", ".join([row] * size))


@cache
def _wide(columns: str, parameters: int, size: int) -> str:
    firsts = range(1, size * parameters + 1, parameters)
    return "SELECT " + ", ".join(columns.format(*(f"?{first + n}" for n in range(parameters))) for first in firsts)
