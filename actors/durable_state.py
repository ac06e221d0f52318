"""The state of one activation beside what the store has of it."""

from typing import Any

from actors import state_delta
from actors.actor import Actor
from actors.ports import Opened
from actors.records import DELTA, WRITTEN_BY
from actors.state import StateCodec

_WORTH_A_DELTA = 4 * 1024  # a smaller state is written whole
_MOST_DELTAS = 256


class DurableState:
    """Loads an actor's state, tells whether it must be committed, and undoes what a failed turn did to it."""

    __slots__ = ("_codec", "_delta_bytes", "_deltas", "_stored", "_unstored", "mark")

    def __init__(self, codec: StateCodec) -> None:
        self._codec = codec
        self._stored = codec.fresh  # what a failed turn goes back to
        self._unstored = False  # made with an id or a time in it: the next commit must keep that
        self._deltas = -1  # how many there are on top of the stored state; -1: none is stored
        self._delta_bytes = 0
        self.mark = b""
        """What the next write says of whose it is, if that is not stored yet. Of a durable actor its commits say it."""

    def restore(self, opened: Opened, address: str) -> Any:
        """The state as it was stored, or a new one. Raises ``StateUnreadable``."""
        if opened.state is not None:
            deltas = _deltas_of(opened)
            self._deltas, self._delta_bytes = len(deltas), sum(map(len, deltas))
            self._stored = state_delta.apply(opened.state, deltas) if deltas else opened.state
            return self._codec.decode(self._stored, address)
        made = self._codec.new()
        encoded = self._codec.encode(made, address)
        if encoded != self._codec.fresh:
            self._stored, self._unstored = encoded, True
        return made

    def unknown_fields(self, opened: Opened, address: str) -> list[str]:
        """The stored fields that the state class would drop. Raises ``StateUnreadable``."""
        if opened.state is None:
            return []
        deltas = _deltas_of(opened)
        return self._codec.unknown_fields(state_delta.apply(opened.state, deltas) if deltas else opened.state, address)

    def unsaved(self, state: object, address: str) -> bytes | None:
        """The bytes to commit, None if the store has them. Raises ``SerializationFailed``."""
        return self._codec.encode_checked(state, address, unless=b"" if self._unstored else self._stored)

    def write(self, state: bytes, put: dict[bytes, bytes], drop: list[bytes]) -> bytes | None:
        """Add to a commit what makes the stored state this one: a delta, or else (returned) all of it."""
        if self.mark:
            put[WRITTEN_BY], self.mark = self.mark, b""
        room = len(state) // 2 - self._delta_bytes
        delta = None
        if len(state) >= _WORTH_A_DELTA and 0 <= self._deltas < _MOST_DELTAS:
            delta = state_delta.difference(self._stored, state, limit=min(room, len(state) // 8))
        if delta is not None:
            put[DELTA + self._deltas.to_bytes(4, "big")] = delta
            self._deltas += 1
            self._delta_bytes += len(delta)
            return None
        drop += [DELTA + number.to_bytes(4, "big") for number in range(max(self._deltas, 0))]
        self._deltas = self._delta_bytes = 0
        return state

    def stored(self, state: bytes) -> None:
        """These bytes were committed."""
        self._stored, self._unstored = state, False

    def committed(self, address: str) -> Any:
        """A copy of the state as of the last commit. Raises ``StateUnreadable``."""
        return self._codec.decode(self._stored, address)

    @property
    def committed_bytes(self) -> bytes:
        """The state as of the last commit."""
        return self._stored

    def equals(self, stored: bytes, state: object, address: str) -> bool:
        """Whether the state is what these bytes are read as."""
        try:
            encoded = self._codec.encode(state, address)
        except Exception:  # a state that cannot be encoded is not the stored one
            return False
        if encoded == stored:
            return True
        return encoded == self._codec.encode(self._codec.decode(stored, address), address)

    def roll_back(self, actor: Actor, address: str) -> bool:
        """Give the actor back the state of the last commit, if it has another now. Raises ``StateUnreadable``.

        Returns whether it had another one.
        """
        try:
            unchanged = self._codec.encode(actor.state, address) == self._stored
        except Exception:  # a state that cannot be encoded is not the stored one
            unchanged = False
        if not unchanged:
            actor.state = self._codec.decode(self._stored, address)
        return not unchanged


def _deltas_of(opened: Opened) -> list[bytes]:
    return [value for key, value in opened.records.items() if key[:1] == DELTA]
