"""Connected readers of streams to which nobody writes: the memory that each of them takes in the server. Linux only."""

import asyncio
import resource
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from benchmarks.contest import Contestant, Terms
from benchmarks.footprint import proportional_memory
from benchmarks.peer import Place
from benchmarks.process import WorkerFailed, start_worker

KINDS: Final = {"one": "of one stream", "many": "each of a stream of its own"}

_BASE: Final = 100  # readers that are there before the counting starts
_SETTLE: Final = 1.0  # seconds
_SLOWEST: Final = 100.0  # connections a second, even on a machine that is busy with other things
_RESERVE: Final = 500  # files that a process needs beside its connections


class Measured(msgspec.Struct):
    """One server with so many readers. Seconds and bytes."""

    contestant: str
    kind: str
    round: int
    subscribers: int
    bytes_each: float
    connecting: float
    """How long it took to connect them all, 64 at a time."""
    heard_after: float | None
    """After how long the last of them had a message to all; None for streams of their own."""


def raise_file_limit(connections: int) -> None:
    """Let this process and its children have so many connections. Raises ``OSError`` if the system does not."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _RESERVE
    if most != resource.RLIM_INFINITY and needed > most:
        raise OSError(f"{connections:,} connections need {needed:,} open files, the limit is {most:,}: see ulimit -Hn")
    if now != resource.RLIM_INFINITY and needed > now:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


async def measure(
    contestants: Sequence[Contestant], subscribers: int, terms: Terms, note: Callable[[str], None]
) -> tuple[list[Measured], dict[str, str]]:
    """Every contestant with every kind, once a round, in fresh processes; and by name why one failed."""
    found: list[Measured] = []
    failed: dict[str, str] = {}
    for number in range(1, terms.rounds + 1):
        for contestant in contestants:
            for kind, title in KINDS.items():
                if contestant.name in failed:
                    continue
                note(f"round {number} of {terms.rounds}: {contestant.name}, {subscribers:,} idle subscribers {title}")
                try:
                    found.append(
                        await _fill(
                            contestant, kind, number, subscribers=subscribers, settle=min(terms.seconds, _SETTLE)
                        )
                    )
                except (WorkerFailed, OSError) as error:
                    failed[contestant.name] = str(error)
    return found, failed


async def _fill(contestant: Contestant, kind: str, number: int, *, subscribers: int, settle: float) -> Measured:
    limit = 30 + subscribers / _SLOWEST
    async with start_worker(contestant.peer, "serve", Place()) as server:
        async with start_worker(contestant.peer, "call", Place(endpoints=[server.endpoint])) as caller:
            await caller.drive("create", callers=subscribers if kind == "many" else 1, seconds=limit)
            base = min(_BASE, subscribers // 2)
            await caller.drive(f"subscribe_{kind}", callers=base, seconds=limit)
            await asyncio.sleep(settle)
            await server.count()  # collects garbage
            before = proportional_memory(server.pid)
            connected = await caller.drive(f"subscribe_{kind}", callers=subscribers, seconds=limit)
            await asyncio.sleep(settle)
            await server.count()
            grown = proportional_memory(server.pid) - before
            heard = await caller.drive("announce", callers=subscribers, seconds=limit) if kind == "one" else None
            return Measured(
                contestant.name,
                kind,
                number,
                subscribers,
                bytes_each=grown / connected.calls,
                connecting=connected.seconds,
                heard_after=heard.seconds if heard is not None else None,
            )
