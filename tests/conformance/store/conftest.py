from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cluster.store import LocalStore
from tests.conformance.store.adapters import ADAPTERS, NewPlace


@pytest.fixture(params=ADAPTERS)
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewPlace]:
    """Makes an empty store of the adapter under test."""
    with ADAPTERS[request.param](tmp_path) as new_place:
        yield new_place


@pytest.fixture
async def connect(new_place: NewPlace) -> AsyncIterator[Callable[[], Awaitable[LocalStore]]]:
    """Opens handles to one store, and closes them after the test."""
    place = new_place()
    handles: list[LocalStore] = []

    async def open_handle() -> LocalStore:
        handles.append(await place.open())
        return handles[-1]

    yield open_handle
    for handle in handles:
        await handle.close()


@pytest.fixture
async def store(connect: Callable[[], Awaitable[LocalStore]]) -> LocalStore:
    return await connect()
