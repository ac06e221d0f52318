"""The state of one activation beside what the store has of it."""

from typing import Any

from actors.actor import Actor, ActorType
from actors.ports import Commit, Directory, Fenced, Store
from actors.state import StateCodec


class DurableState:
    """Loads an actor's state, tells whether it must be committed, and undoes what a failed turn did to it."""

    __slots__ = ("_codec", "_stored", "_unstored")

    def __init__(self, codec: StateCodec) -> None:
        self._codec = codec
        self._stored = codec.fresh  # what a failed turn goes back to
        self._unstored = False  # made with an id or a time in it: the next commit must keep that

    async def load(self, address: str, epoch: int, actor_type: ActorType, *, store: Store, directory: Directory) -> Any:
        """The state and the epoch that opened it. Raises ``StateUnreadable``, ``Fenced`` or ``StoreUnavailable``."""
        stored = None
        if actor_type.stored:
            try:
                stored = await store.open(address, epoch)
            except Fenced as fenced:  # either the claim is stale, or the directory lost its past
                epoch = await directory.outrun(address, fenced.stored)
                stored = await store.open(address, epoch)
        if stored is not None:
            self._stored = stored
            return self._codec.decode(stored, address), epoch
        made = self._codec.new()
        encoded = self._codec.encode(made, address)
        if encoded != self._codec.fresh:
            self._stored, self._unstored = encoded, True
        return made, epoch

    def unsaved(self, state: object, address: str) -> bytes | None:
        """The bytes to commit, None if the store has them. Raises ``SerializationFailed``."""
        return self._codec.encode_checked(state, address, unless=b"" if self._unstored else self._stored)

    async def commit(self, commit: Commit, store: Store) -> None:
        """Make it durable. Raises what the store raises."""
        await store.commit(commit)
        assert commit.state is not None
        self._stored, self._unstored = commit.state, False

    def committed(self, address: str) -> Any:
        """A copy of the state as of the last commit. Raises ``StateUnreadable``."""
        return self._codec.decode(self._stored, address)

    def roll_back(self, actor: Actor, address: str) -> None:
        """Give the actor back the state of the last commit, if it has another now. Raises ``StateUnreadable``."""
        try:
            unchanged = self._codec.encode(actor.state, address) == self._stored
        except Exception:  # a state that cannot be encoded is not the stored one
            unchanged = False
        if not unchanged:
            actor.state = self._codec.decode(self._stored, address)
