"""Random programs on three silos that are killed at random; in the end every count is exact.

By hand, for many seeds: ``python -m tests.durable.random_programs --seeds 50``.
"""

import argparse
import asyncio
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import NamedTuple

from actors import actor_ref
from actors.records import JOURNAL, MESSAGE, OUTBOX, REMINDER, Done, message_rows
from actors.settings import Settings
from cluster.client import connect
from cluster.etcd import EtcdServer
from cluster.store import open_store
from tests.cluster.waiting import eventually
from tests.conformance.store.postgres_server import shared_server
from tests.durable import faults
from tests.durable.cluster import Cluster, nursery
from tests.durable.programs import POINTS, Programs, Tally

PATIENT = Settings(max_attempts=1000, max_adoptions=1000)
"""Budgets that a test which kills for its own sake does not use up."""


LIMIT = 45.0  # seconds; only a call that is never answered takes so long


class Outcome(NamedTuple):
    kills: int
    seconds: float


async def run_seed(cluster: Cluster, seed: int, *, roots: int = 24, kills: int = 8) -> Outcome:
    """Run the programs of a seed; raises ``AssertionError`` where anything is not exactly as reckoned."""
    started, before = time.monotonic(), cluster.kills
    programs, random = Programs(seed), Random(seed)
    faults.forget(cluster.folder)
    work = [(address := programs.address(0), programs.program(address)) for _ in range(roots)]
    for address in random.sample(programs.addresses(), kills // 2):
        cluster.plan_kill(address, random.choice(POINTS), random.randint(1, 4))
    endpoints = list(cluster.endpoints.values())
    async with cluster.attended(), connect(endpoints, cluster=cluster.name, settings=PATIENT):
        readers = {address: asyncio.create_task(_follow(address, items)) for address, items in programs.items.items()}
        calls = [asyncio.create_task(actor_ref(address).run(program)) for address, program in work]
        for _ in range(kills - kills // 2):
            await asyncio.sleep(random.uniform(0.1, 0.6))
            random.choice(list(cluster.silos.values())).signal(signal.SIGKILL)
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*calls)
        faults.forget_plans(cluster.folder)
        await eventually("everything is done", lambda: _settled(cluster, programs), within=40)
        for address in programs.addresses():
            _check(programs, address, await actor_ref(address).tally())
        for address, reader in readers.items():
            events = await asyncio.wait_for(reader, 20)
            assert events == await _follow(address, programs.items[address]), f"{address}: two readers, two histories"
        for (address, name), length in programs.streams.items():
            assert await _read(address, name, length) == [(n, n, "item") for n in range(length)], f"{address}/{name}"
        noted = faults.notes(cluster.folder)
        assert all(noted[f"begun {name}"] >= 1 for name in programs.steps)
        assert all(noted[f"begun {name}"] <= 1 for name in programs.once_steps), "a once=True body ran twice"
    return Outcome(cluster.kills - before, time.monotonic() - started)


async def _read(address: str, channel: str, count: int) -> list[tuple[int, object, str]]:
    found: list[tuple[int, object, str]] = []
    async with aclosing(actor_ref(address).channel(channel).subscribe()) as events:  # type: ignore[type-var]
        async for event in events:
            found.append(event[:3])
            if len(found) == count:
                break
    return found


async def _follow(address: str, items: list[str]) -> list[tuple[int, object, str]]:
    found = await _read(address, "output", len(items))
    assert [offset for offset, _, _ in found] == list(range(len(items))), f"{address}: {found}"
    assert Counter(data for _, data, _ in found) == Counter(items), f"{address}: {found}"
    return found


async def _settled(cluster: Cluster, programs: Programs) -> bool:
    """Whether the store has nothing left to do for any actor."""
    store = await open_store(cluster.store_url)
    try:
        for address in programs.addresses():
            for key, row in await store.read(address, MESSAGE, REMINDER + b"\xff", limit=10_000):
                if key[:1] in (JOURNAL, OUTBOX, REMINDER) or not isinstance(message_rows.decode(row), Done):
                    return False
        return True
    finally:
        await store.close()


def _check(programs: Programs, address: str, tally: Tally) -> None:
    ran, wanted = Counter(tally.programs), Counter(programs.programs.get(address, ()))
    assert ran == wanted, f"{address}: {ran - wanted} too often, {wanted - ran} not at all"
    assert tally.count == programs.count[address], f"{address}: {tally.count}, not {programs.count[address]}"
    assert tally.once + tally.interrupted == programs.once[address], f"{address}: {tally}"
    assert tally.failures == programs.failures[address], f"{address}: {tally}"
    assert tally.reminded == dict.fromkeys(programs.reminders.get(address, ()), 1), f"{address}: {tally}"
    assert tally.disorder == [], f"{address}: {tally.disorder}"
    letters = {sender: count for (sender, receiver), count in programs.letters.items() if receiver == address}
    assert tally.received == letters, f"{address}: {tally.received}, not {letters}"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(store: str, seeds: range) -> None:
    async with EtcdServer(unsafe_no_fsync=True) as etcd:
        for seed in seeds:
            with tempfile.TemporaryDirectory() as name, nursery(Path(name)) as found:
                url = f"sqlite:///{name}/state.db" if store == "sqlite" else shared_server().new_database()
                cluster = Cluster(found, etcd, url, Path(name), name=f"random-{secrets.token_hex(4)}", settings=PATIENT)
                await cluster.start("n1", "n2", "n3")
                try:
                    outcome = await run_seed(cluster, seed)
                except BaseException:
                    say(f"seed {seed} on {store}: failed; what the silos said:")
                    for silo in cluster.silos.values():
                        say(silo.err[-4000:])
                    raise
                finally:
                    await cluster.stop()
                say(f"seed {seed} on {store}: exact after {outcome.kills} kills, {outcome.seconds:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.durable.random_programs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    asyncio.run(main(options.store, range(options.first, options.first + options.seeds)))
