"""DBOS with SQLite as its system database: async workflows, in the process of their callers."""

import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from dbos import DBOS

from benchmarks.peer import Caller, Peer, Place, Served, nothing_to_serve


@DBOS.step()
async def _add(value: int) -> int:
    return value + 1


@DBOS.workflow()
async def _count(value: int) -> int:
    return value + 1


@DBOS.workflow()
async def _steps(value: int, number: int) -> int:
    for _ in range(number):
        value = await _add(value)
    return value


class DbosPeer(Peer):
    """One DBOS executor. ``journal_mode`` is SQLite's, which DBOS leaves as it finds it in the file."""

    def __init__(self, journal_mode: str) -> None:
        self._journal_mode = journal_mode

    def serve(self, place: Place) -> contextlib.AbstractAsyncContextManager[Served]:
        """Nothing: DBOS is a library in the callers' process."""
        return nothing_to_serve()

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """DBOS with a new SQLite file."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            path = Path(folder) / "dbos.sqlite"
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute(f"PRAGMA journal_mode = {self._journal_mode}")
                connection.execute("VACUUM")  # writes the header, which keeps the mode
            DBOS(config={"name": "benchmark", "system_database_url": f"sqlite:///{path}", "log_level": "ERROR"})
            DBOS.launch()
            try:
                yield Caller({"turn": _turn, "steps_1": _steps_1, "steps_10": _steps_10})
            finally:
                DBOS.destroy()


async def _turn(number: int) -> object:
    return await _count(number)


async def _steps_1(number: int) -> object:
    return await _steps(number, 1)


async def _steps_10(number: int) -> object:
    return await _steps(number, 10)


PEER = DbosPeer("delete")
