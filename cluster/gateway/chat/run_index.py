"""From the id that an AG-UI client has given a run to the chat that it belongs to."""

import hashlib
from datetime import timedelta
from typing import Final

import msgspec

from actors import Actor, actor_ref, handler
from actors.address import is_address
from cluster.gateway.streams.names import CHAT_RUN

KEPT: Final = timedelta(days=1)
"""As long as the idempotency key that makes a repeated request the same run."""


class RunState(msgspec.Struct):
    """The chats in which a run of this id was begun, by path and the address of the actor."""

    chats: dict[str, str] = {}


class ChatRun(Actor, type=CHAT_RUN, idle_timeout=60):
    """The chat of one run: who joins it with a GET names the run only."""

    state: RunState

    @handler
    async def begun(self, path: str, address: str) -> str:
        """A run of this id begins in a chat; returns the address that has it, which is another's if that was first."""
        if not self.state.chats:
            await self.remind("forget", after=KEPT)
        return self.state.chats.setdefault(path, address)

    @handler(readonly=True)
    async def chat(self, path: str) -> str:
        """The address of the actor that has the run, "" if there is no such run."""
        return self.state.chats.get(path, "")

    async def on_reminder(self, name: str) -> None:
        """It cannot be joined any more."""
        self.state.chats.clear()


def run_address(run_id: str) -> str:
    """The address of the actor that knows the run; an id that cannot be a key is hashed."""
    address = f"{CHAT_RUN}-{run_id}"
    if is_address(address) and not run_id.startswith("sha256 "):
        return address
    return f"{CHAT_RUN}-sha256 {hashlib.sha256(run_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


async def note_run(run_id: str, path: str, address: str) -> bool:
    """Remember the chat of a run; whether it is this one's."""
    found: str = await actor_ref(run_address(run_id)).begun(path, address)
    return found == address


async def chat_of_run(run_id: str, path: str) -> str | None:
    """The address of the actor of a run, if it was begun within the last day."""
    found: str = await actor_ref(run_address(run_id)).chat(path)
    return found or None
