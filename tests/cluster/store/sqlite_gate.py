"""Holds a writer back, so that a test knows what waits."""

import asyncio
import threading

from cluster.store import SqliteStore


class Gate:
    """Holds the writer thread back before its next transaction until ``open`` is set."""

    def __init__(self, store: SqliteStore) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        transact = store._writer._transact

        def held(operations: list[object]) -> object:
            self.reached.set()
            self.open.wait()
            return transact(operations)  # type: ignore[arg-type]

        store._writer._transact = held  # type: ignore[method-assign, assignment]

    async def wait_until_reached(self) -> None:
        await asyncio.to_thread(self.reached.wait)
