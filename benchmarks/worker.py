"""A contestant's process: ``python -m benchmarks.worker <peer> serve|call <place as JSON>``.

It says Ready on stdout, then answers one command a line. The end of its stdin is its signal to go, so that none is
left behind when the benchmark dies.
"""

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Callable
from typing import Literal, cast

import msgspec

from benchmarks.load import drive
from benchmarks.peer import Answer, Caller, Command, Drive, Place, Ready, Served, load_peer
from cluster.serve import run

Role = Literal["serve", "call"]


async def work(peer: str, role: Role, place: Place, say: Callable[[Answer], None]) -> int:
    """Be that process until stdin ends."""
    commands: asyncio.Queue[Command] = asyncio.Queue()
    working = asyncio.create_task(
        _serve(peer, place, say, commands) if role == "serve" else _call(peer, place, say, commands)
    )
    listening = asyncio.create_task(_listen(commands))
    await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    listening.cancel()
    return 0


async def _listen(commands: "asyncio.Queue[Command]") -> None:
    """Take commands until stdin ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        commands.put_nowait(msgspec.json.decode(line, type=Command))


async def _serve(peer: str, place: Place, say: Callable[[Answer], None], commands: "asyncio.Queue[Command]") -> None:
    async with load_peer(peer).serve(place) as served:
        say(answer_with(Ready(served.endpoint, served.pid)))
        while True:
            say(_count(served, await commands.get()))


async def _call(peer: str, place: Place, say: Callable[[Answer], None], commands: "asyncio.Queue[Command]") -> None:
    numbers = itertools.count()
    async with load_peer(peer).connect(place) as caller:
        say(answer_with(Ready()))
        while True:
            say(await _drive(caller, await commands.get(), numbers))


def answer_with(value: object) -> Answer:
    """An answer that is a value."""
    return Answer(msgspec.Raw(msgspec.json.encode(value)))


def _count(served: Served, command: Command) -> Answer:
    return Answer(error="a server drives no load") if isinstance(command, Drive) else answer_with(served.count())


async def _drive(caller: Caller, command: Command, numbers: "itertools.count[int]") -> Answer:
    if not isinstance(command, Drive):
        return Answer(error="a caller has no counters")
    try:
        if command.work in caller.runs:
            window = await caller.runs[command.work](command.callers, command.seconds)
        else:
            window = await drive(
                caller.works[command.work],
                callers=command.callers,
                seconds=command.seconds,
                numbers=numbers,
                contexts=caller.contexts,
            )
    except* Exception as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        answer = Answer(error=f"{type(error).__name__}: {error}")
    else:
        answer = answer_with(window)
    return answer


def open_answers() -> Callable[[Answer], None]:
    """Keep stdout for answers alone: what the contestants' own code prints goes to stderr."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(answer: Answer) -> None:
        stream.write(msgspec.json.encode(answer) + b"\n")
        stream.flush()

    return say


if __name__ == "__main__":
    _peer, _role, _place = sys.argv[1:]
    _settings = msgspec.json.decode(_place, type=Place)
    _say = open_answers()
    sys.exit(run(lambda: work(_peer, cast("Role", _role), _settings, _say)))
