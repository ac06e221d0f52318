"""``make demo INTERACTIVE=1``: a person writes with the sessions."""

import asyncio
import os
import signal

from actors import ActorError
from cluster import Client
from cluster.local_cluster import LocalCluster
from examples.reader import Reader

_HELP = "Type a line to go on with the story. /list shows the sessions, /use NAME changes, /kill n2, /quit."


class Conversation:
    """A prompt on the terminal. Lines go to the session in use, which answers as it thinks.

    ``/kill`` a silo in the middle of a sentence: it is finished all the same.
    """

    def __init__(self, client: Client, cluster: LocalCluster, names: list[str]) -> None:
        self._client = client
        self._cluster = cluster
        self._readers = {name: _reader(name) for name in names}
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
            await self._readers[self._name].write(line)

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
