"""Random histories over a few addresses and two handles of one store have the outcomes that a dict would have."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.store.adapters import NewPlace
from tests.conformance.store.model import Call, Model, calls

# What one handle is given at once, and which: groups of it may become one transaction.
steps = st.lists(st.tuples(st.integers(0, 1), st.lists(calls, min_size=1, max_size=12)), max_size=6)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(history=steps)
def test_every_outcome_is_the_models(new_place: NewPlace, history: list[tuple[int, list[Call]]]) -> None:
    async def replay() -> None:
        place = new_place()
        handles = [await place.open(), await place.open()]
        model = Model()
        try:
            for number, (handle, group) in enumerate(history):
                outcomes = await asyncio.gather(*(call.run(handles[handle]) for call in group))
                assert outcomes == [model.run(call) for call in group], f"step {number}"
        finally:
            for store in handles:
                await store.close()

    asyncio.run(replay())
