"""What was acknowledged before a SIGKILL is there afterwards: real processes, killed at random moments."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from cluster.store import LocalStore
from tests.conformance.store.adapters import ADAPTERS, NewPlace, Place

WRITER = Path(__file__).with_name("acknowledging_writer.py")
ADDRESSES = 8


DURABLE = [name for name in ADAPTERS if name != "memory"]  # which ends with its process


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "watched"])
@pytest.mark.parametrize("new_place", DURABLE, indirect=True)
def test_no_acknowledged_commit_is_lost(new_place: NewPlace, watched: bool) -> None:
    """Alone, the next to open the store has to recover it; watched, another process has it open all the time."""
    place = new_place()
    assert place.url is not None
    with asyncio.Runner() as runner:
        watcher = runner.run(place.open()) if watched else None
        try:
            _kill_and_compare(place.url, lambda addresses, epoch: runner.run(_states(place, addresses, epoch)))
        finally:
            if watcher is not None:
                runner.run(watcher.close())


def _kill_and_compare(url: str, read: Callable[[list[str], int], dict[str, int]]) -> None:
    randomness = random.Random(7)
    expected = dict.fromkeys((f"session-{number}" for number in range(ADDRESSES)), 0)
    for epoch in range(1, 4):
        acknowledged, attempted = _write_until_killed(url, epoch, acknowledgements=randomness.randint(1, 400))
        states = read(list(expected), epoch)
        for address, state in states.items():
            lowest = max(expected[address], acknowledged.get(address, 0))
            highest = max(lowest, attempted.get(address, 0))
            assert lowest <= state <= highest, f"{address}, epoch {epoch}: {state}, expected {lowest} to {highest}"
        expected = states


def _write_until_killed(url: str, epoch: int, *, acknowledgements: int) -> tuple[dict[str, int], dict[str, int]]:
    """The last number that was acknowledged, and the last that was attempted, by address."""
    told: dict[str, dict[str, int]] = {"done": {}, "try": {}}
    with subprocess.Popen(
        [sys.executable, str(WRITER), url, str(epoch), str(ADDRESSES)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        remaining = acknowledgements
        for line in process.stdout:  # goes on after the kill, until the pipe is empty
            if not line.endswith("\n"):
                break
            word, address, number = line.split()
            told[word][address] = int(number)
            remaining -= word == "done"
            if remaining == 0:
                process.kill()
    assert process.returncode == -9
    return told["done"], told["try"]


async def _states(place: Place, addresses: list[str], epoch: int) -> dict[str, int]:
    store = await place.open()
    try:
        return {address: await _whole(store, address, epoch) for address in addresses}
    finally:
        await store.close()


async def _whole(store: LocalStore, address: str, epoch: int) -> int:
    """The number that the address has counted to. Fails if what is stored is of several commits."""
    opened = await store.open(address, epoch, "writer.1")
    number = int(opened.state or b"0")
    names = [b"%08d" % counted for counted in range(max(number - 2, 1), number + 1)]
    hot = {b"\5" + name: name for name in names}
    cold = {b"\x80" + name: name * 50 for name in names}
    assert opened.records == hot, f"{address}, epoch {epoch}, counted to {number}"
    assert dict(await store.read(address, b"", b"\xff", limit=100)) == hot | cold, f"{address}, epoch {epoch}"
    wakes = [due.wake for due in await store.due(inf, hosts=(), limit=100) if due.address == address]
    assert wakes == ([number] if number else []), f"{address}, epoch {epoch}"
    return number
