"""An actor as a read-only call sees it: a copy with the state of the last commit."""

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.durable_state import DurableState


class View:
    """The copy, and whether it was left as it was."""

    __slots__ = ("_before", "_state", "_stored", "actor")

    def __init__(self, actor: "Actor", state: "DurableState", address: str) -> None:
        """Raises ``StateUnreadable``."""
        self._state, self._stored = state, state.committed_bytes
        self.actor = object.__new__(type(actor))
        attributes = vars(self.actor)
        attributes.update(vars(actor))
        self.actor.state = state.committed(address)
        self._before = attributes.copy()

    def change(self, address: str) -> str:
        """What a call has changed of it, "" for nothing. What it only looked up for the first time is no change."""
        for name, value in vars(self.actor).items():
            if name == "state" or self._before.get(name, self) is value:
                continue
            if not isinstance(getattr(type(self.actor), name, None), cached_property):
                return f"self.{name}"
        unchanged = self.actor.state is self._before["state"] and self._state.equals(
            self._stored, self.actor.state, address
        )
        return "" if unchanged else "self.state"
