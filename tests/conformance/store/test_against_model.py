"""Random histories over a few addresses and two handles of one store have the outcomes that a dict would have."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.ports import Commit, Store
from cluster.store.operations import Open, Operation, RaiseEra
from tests.conformance.store.adapters import NewPlace
from tests.conformance.store.model import ADDRESSES, EVERYTHING, Model, Reads, operations, reads, run

SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Step:
    """What is submitted at once: groups of it may become one transaction. Then the reads."""

    group: list[Operation]
    handles: tuple[int, ...]
    """By address, the handle that its operations go to: order is promised within one."""
    reads: list[Reads]

    def handle(self, operation: Operation) -> int:
        return 0 if isinstance(operation, RaiseEra) else self.handles[ADDRESSES.index(operation.address)]


steps = st.builds(
    Step,
    group=st.lists(operations, min_size=1, max_size=12),
    handles=st.tuples(*(st.integers(0, 1) for _ in ADDRESSES)),
    reads=st.lists(reads, max_size=3),
)


async def open_two(new_place: NewPlace) -> list[Store]:
    place = new_place()
    return [await place.open(), await place.open()]


@SETTINGS
@given(history=st.lists(steps, max_size=6))
def test_every_outcome_is_the_models(new_place: NewPlace, history: list[Step]) -> None:
    async def replay() -> None:
        handles = await open_two(new_place)
        model = Model()
        try:
            for number, step in enumerate(history):
                outcomes = await asyncio.gather(*(run(handles[step.handle(call)], call) for call in step.group))
                assert outcomes == [model.run(call) for call in step.group], f"step {number}"
                await compare(handles[number % 2], model, step, number)
        finally:
            for store in handles:
                await store.close()

    asyncio.run(replay())


async def compare(store: Store, model: Model, step: Step, number: int) -> None:
    """Any handle sees what was acknowledged by any other."""
    found = await asyncio.gather(*(query.run(store) for query in step.reads))
    assert found == [query.expected(model) for query in step.reads], f"reads of step {number}"
    for address in ADDRESSES:
        stored = await store.read(address, *EVERYTHING, limit=1000)
        assert stored == model.read(address, *EVERYTHING, 1000, newest=False), f"{address} after step {number}"


@SETTINGS
@given(groups=st.lists(st.lists(operations, min_size=1, max_size=12), min_size=1, max_size=3))
def test_a_read_beside_commits_sees_each_whole_or_not_at_all(
    new_place: NewPlace, groups: list[list[Operation]]
) -> None:
    async def replay() -> None:
        handles = await open_two(new_place)
        model = Model()
        try:
            await asyncio.gather(*(run(handles[0], opening) for opening in everybody(model)))
            for number, group in enumerate(groups):
                writing = [asyncio.create_task(run(handles[0], call)) for call in group]
                reading = [
                    asyncio.create_task(handle.read(address, *EVERYTHING, limit=1000))
                    for handle in handles
                    for address in ADDRESSES
                ]
                possible = histories(model, group)
                await asyncio.gather(*writing)
                for address, task in zip(ADDRESSES * 2, reading, strict=True):
                    assert await task in possible[address], f"{address} during group {number}"
        finally:
            for store in handles:
                await store.close()

    asyncio.run(replay())


def everybody(model: Model) -> Iterator[Operation]:
    for address in ADDRESSES:
        opening = Open(address, 1, "")
        model.run(opening)
        yield opening


def histories(model: Model, group: list[Operation]) -> dict[str, list[list[tuple[bytes, bytes]]]]:
    """By address, the records that there were before the group and after each of its operations."""

    def now(address: str) -> list[tuple[bytes, bytes]]:
        return model.read(address, *EVERYTHING, 1000, newest=False)

    found = {address: [now(address)] for address in ADDRESSES}
    for call in group:
        model.run(call)
        if isinstance(call, Commit):
            found[call.address].append(now(call.address))
    return found
