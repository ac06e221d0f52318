"""``make demo INTERACTIVE=1``: a person writes with the sessions."""

import asyncio
import os
import signal

from actors import ActorError
from cluster import Client
from cluster.local_cluster import LocalCluster
from examples.story import Session

_HELP = "Type a line to go on with the story. /list shows the sessions, /use NAME changes, /kill n2, /quit."


class Conversation:
    """A prompt on the terminal. Lines go to the session in use, which answers as it thinks."""

    def __init__(self, client: Client, cluster: LocalCluster, names: list[str]) -> None:
        self._client = client
        self._cluster = cluster
        self._names = names
        self._name = names[0]

    async def run(self) -> None:
        """Read lines until /quit or the end of input."""
        print(_HELP)
        while True:
            try:
                line = (await asyncio.to_thread(input, f"{self._name}> ")).strip()
            except EOFError:
                return
            if line == "/quit":
                return
            try:
                await (self._command(line) if line.startswith("/") else self._write(line))
            except (ActorError, ConnectionError, ValueError) as error:
                print(f"{type(error).__name__}: {error}")

    async def _write(self, line: str) -> None:
        if line:
            async for piece in Session.ref(self._name).tokens.stream(line):
                print(piece, end="", flush=True)
            print()

    async def _command(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        if command == "/list":
            placements = await self._client.placements("session")
            for name in self._names:
                print(f"  {name:12} {placements.get(f'session-{name}', 'asleep')}")
        elif command == "/use" and argument:
            story = await Session.ref(argument).read()
            self._name = argument
            if argument not in self._names:
                self._names.append(argument)
            print(story.text or "(an empty page)")
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
