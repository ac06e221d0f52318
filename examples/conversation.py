"""``make demo INTERACTIVE=1``: a person writes with the sessions."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from actors import ActorError
from cluster import Client
from cluster.local_cluster import LocalCluster
from examples.reader import Reader

_HELP = (
    "Type a line to go on with the story, also while it is written: it goes on from there. "
    "/list shows the sessions, /use NAME changes, /kill n2, /quit."
)


class Conversation:
    """A prompt on the terminal. Lines go to the session in use, which answers as it thinks.

    A line that is typed meanwhile interrupts it. ``/kill`` a silo in the middle of a sentence: it is finished all the
    same.
    """

    def __init__(self, client: Client, cluster: LocalCluster, names: list[str]) -> None:
        self._client = client
        self._cluster = cluster
        self._readers = {name: _reader(name) for name in names}
        self._name = names[0]
        self._writing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read lines until /quit or the end of input."""
        print(_HELP)
        try:
            while (line := await self._next_line()) != "/quit":
                if line.startswith("/"):
                    await self._tell_failure(self._command(line))
                elif line:
                    writing = self._readers[self._name].write(line, on_busy="interrupt")
                    self._writing = asyncio.create_task(self._tell_failure(writing))
        except EOFError:
            return
        finally:
            if self._writing is not None:
                self._writing.cancel()

    async def _next_line(self) -> str:
        """What is typed next. There is a prompt only when nothing is written."""
        if self._writing is not None and not sys.stdin.isatty():
            await self._writing
        typing = asyncio.create_task(asyncio.to_thread(input))
        if self._writing is not None:
            await asyncio.wait({typing, self._writing}, return_when=asyncio.FIRST_COMPLETED)
        if not typing.done():
            print(f"{self._name}> ", end="", flush=True)
        return (await typing).strip()

    async def _tell_failure(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (ActorError, ConnectionError, ValueError) as error:
            print(f"{type(error).__name__}: {error}")

    async def _command(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        if command == "/list":
            placements = await self._client.placements("session")
            for name in self._readers:
                print(f"  {name:12} {placements.get(f'session-{name}', 'asleep')}")
        elif command == "/use" and argument:
            reader = self._readers.setdefault(argument, _reader(argument))
            print(reader.text, end="")
            await reader.catch_up()
            self._name = argument
        elif command == "/kill" and argument:
            self._kill(argument)
        else:
            print(_HELP)

    def _kill(self, name: str) -> None:
        for silo in self._cluster.silos:
            if silo.name == name and silo.process.returncode is None:
                os.kill(silo.pid, signal.SIGKILL)
                print(f"  {name} is dead")
                return
        print(f"  no silo {name} is running")


def _reader(name: str) -> Reader:
    return Reader(name, lambda piece: print(piece, end="", flush=True))
