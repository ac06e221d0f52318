"""Actors that hold up their silo's event loop in every way there is, until a file says that they may go on."""

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from actors import Actor, actor_ref, handler
from tests.cluster.house_actors import Count, Counter, by_name, silo_of

_LONGEST = 60.0
"""Seconds after which a body that nobody has let go gives up."""


def _folder() -> Path:
    return Path(os.environ["TEST_FOLDER"])


def sleep_until(is_over: Callable[[], bool]) -> None:
    while not is_over():
        time.sleep(0.01)


def compute_until(is_over: Callable[[], bool]) -> None:
    count = 0
    while count % 1000 or not is_over():
        count += 1


def hold_the_interpreter(seconds: float) -> None:
    """What an extension in C does that does not let go of the interpreter's lock."""
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1e6)))
    end = time.monotonic() + 0.1  # the next one who wants the lock finds this thread here
    while time.monotonic() < end:
        pass


class Mule(Actor, placement=by_name):
    """Blocks the loop on the first silo that it is asked to do so on."""

    state: Count

    def __init__(self) -> None:
        self.remembered = 0

    @handler
    async def add(self, amount: int) -> int:
        self.state.value += amount
        self.remembered += amount
        return self.state.value

    @handler
    async def greet(self) -> None:
        """Find out where the tally lives."""
        await actor_ref("tally-n2.t").greet()

    @handler(readonly=True)
    async def recall(self) -> tuple[int, str]:
        """What it only remembers, and where it lives."""
        return self.remembered, silo_of(self)

    @handler
    async def block_for(self, how: str, seconds: float) -> int:
        """Change the state, and block for so long."""
        self.state.value += 100
        end = time.monotonic() + seconds
        (compute_until if how == "compute" else sleep_until)(lambda: time.monotonic() > end)
        return self.state.value

    @handler
    async def block_on(self, silo: str, how: str, then: str) -> int:
        """Change the state, block on one silo until the test lets go, and ``then`` have an effect elsewhere."""
        self.state.value += 100
        if silo_of(self) == silo:
            (_folder() / "began").touch()
            self._hold(how)
            (_folder() / "woke").touch()
        where = silo_of(self)
        match then:
            case "step":
                await self.step("note", note, where)
            case "ask":
                await actor_ref("tally-n2.t").note(where)
            case "stream":
                async for _ in actor_ref("tally-n2.t").note_all.stream(where):
                    pass
            case "wait":
                await asyncio.Event().wait()
        return self.state.value

    def _hold(self, how: str) -> None:
        match how:
            case "sleep":
                sleep_until((_folder() / "let go").exists)
            case "compute":
                compute_until((_folder() / "let go").exists)
            case _:
                hold_the_interpreter(float(how))

    @handler
    async def wait(self) -> None:
        await asyncio.Event().wait()

    @handler(readonly=True)
    async def look_on(self) -> None:
        """The same, beside a turn."""
        await asyncio.Event().wait()

    @handler(control=True)
    async def looks_on(self) -> bool:
        """Whether a turn runs, and a call beside it."""
        return len(self._activation.running()) == 3


def note(line: str) -> None:
    """An effect on the world outside, in a file."""
    with (_folder() / "notes").open("a") as file:
        file.write(f"{line}\n")


class Tally(Actor, placement=by_name, persist="never"):
    """Notes what it is told, each time that it is."""

    @handler
    async def greet(self) -> None: ...

    @handler
    async def note(self, line: str) -> None:
        note(line)

    @handler
    async def note_all(self, line: str) -> AsyncIterator[str]:
        note(line)
        yield line


ACTORS: list[type[Actor]] = [Mule, Tally, Counter]
