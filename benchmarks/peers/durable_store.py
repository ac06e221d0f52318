"""What a durable silo commits, handed to its store without the silo."""

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

from actors.ports import Commit, Store
from benchmarks.load import Call
from benchmarks.peer import Caller, Peer, Place, Served, nothing_to_serve
from benchmarks.peers.durable_silo import ACTORS, durable_silo, works
from cluster.store.sqlite import SqliteStore

REPLAYED = ("turn", "turn_later", "send", "steps_1", "steps_10", "parallel_10", "stream_100")

Script: TypeAlias = list[list[Commit]]
"""The commits of one call, in batches: those of a batch were under way at the same time."""


class RecordingStore:
    """Notes the commits on their way to a store. Everything else is the store's own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._under_way: defaultdict[str, int] = defaultdict(int)
        self.scripts: defaultdict[str, Script] = defaultdict(list)
        """By address."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commit: Commit) -> None:
        """Pass it on."""
        script = self.scripts[commit.address]
        if self._under_way[commit.address]:
            script[-1].append(commit)
        else:
            script.append([commit])
        self._under_way[commit.address] += 1
        try:
            await self._store.commit(commit)
        finally:
            self._under_way[commit.address] -= 1


async def record() -> dict[str, list[Script]]:
    """What one call of each work commits, for each of the actors, when all are called at once."""
    found: dict[str, list[Script]] = {}
    async with durable_silo() as silo:
        recorder = RecordingStore(silo.runtime.store)
        silo.runtime.store = recorder
        calls = works()
        for work in REPLAYED:
            for _ in range(2):  # the second call also removes what the first has left
                recorder.scripts.clear()
                await asyncio.gather(*(calls[work](number) for number in range(ACTORS)))
            found[work] = list(recorder.scripts.values())
    return found


class DurableStorePeer(Peer):
    """The store alone, and tasks that commit again what a silo has committed."""

    def serve(self, place: Place) -> contextlib.AbstractAsyncContextManager[Served]:
        """Nothing: the store lives with its callers."""
        return nothing_to_serve()

    @contextlib.asynccontextmanager
    async def connect(self, place: Place) -> AsyncIterator[Caller]:
        """A store with a new SQLite file, in which the recorded actors are open."""
        recorded = await record()
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            store = await SqliteStore.open_file(Path(folder) / "state.db")
            try:
                for [[first, *_], *_] in recorded["turn"]:
                    await store.open(first.address, first.epoch, "silo")
                yield Caller({work: _replay(store, scripts) for work, scripts in recorded.items()})
            finally:
                await store.close()


def _replay(store: Store, scripts: list[Script]) -> Call:
    async def call(number: int) -> None:
        for batch in scripts[number % len(scripts)]:
            if len(batch) == 1:
                await store.commit(batch[0])
            else:
                await asyncio.gather(*map(store.commit, batch))

    return call


PEER = DurableStorePeer()
