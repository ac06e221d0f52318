import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from actors import Actor
from actors.alone import LonelyDirectory, NoTransport
from actors.ports import Clock, Directory, Store
from actors.ref import current_caller
from actors.runtime import Runtime
from actors.settings import Settings
from cluster.clock import SystemClock
from tests.unit.fakes import LoopTime, ScriptedStore

_eras = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What hangs in one process hangs for ever: there is nothing slow to wait for."""
    for item in items:
        if "start" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(10))


class Start(Protocol):
    """Starts a runtime, alone in this process, and makes it the one that references use."""

    def __call__(
        self,
        *actors: type[Actor],
        store: Store | None = None,
        directory: Directory | None = None,
        clock: Clock | None = None,
        settings: Settings | None = None,
    ) -> Runtime: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    runtimes: list[Runtime] = []
    unhandled: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))

    def start_runtime(
        *actors: type[Actor],
        store: Store | None = None,
        directory: Directory | None = None,
        clock: Clock | None = None,
        settings: Settings | None = None,
    ) -> Runtime:
        types = [actor._type for actor in actors]
        runtime = Runtime(
            actors,
            directory=directory or LonelyDirectory(types, era=(era := next(_eras)), name=f"local.{era}"),
            transport=NoTransport(),
            store=store or ScriptedStore(),
            clock=clock or SystemClock(),
            settings=settings,
        )
        runtimes.append(runtime)
        current_caller.set(runtime.outbound)
        return runtime

    yield start_runtime
    for runtime in runtimes:
        await runtime.close()
    assert not unhandled, f"an exception reached the event loop: {unhandled}"


@pytest.fixture
async def loop_time() -> LoopTime:
    """Must be asked for before ``start``: a runtime's timers belong to the time that it was started in."""
    return LoopTime(asyncio.get_running_loop())


@pytest.fixture
async def store() -> ScriptedStore:
    return ScriptedStore()
