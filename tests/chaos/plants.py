"""Known bugs, switched on in the silos, to see that the checks find them."""

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from actors.inbox import Inbox
from actors.ports import Commit
from actors.runtime import Runtime
from actors.turn import Turn
from cluster.store import sqlite_group


def no_fence() -> None:
    """A silo does not look at its clock, and SQLite takes what it writes, whoever owns the address now."""
    commit = sqlite_group._commit

    def unfenced(connection: sqlite3.Connection, commits: dict[int, Commit], outcomes: list[Any]) -> None:
        owners = sqlite_group._owners(connection, dict.fromkeys((it.address for it in commits.values()), ""))
        forged = {
            place: msgspec.structs.replace(it, epoch=owners[it.address][1]) if it.address in owners else it
            for place, it in commits.items()
        }
        commit(connection, forged, outcomes)

    sqlite_group._commit = unfenced
    Runtime.may_act = lambda self: True  # type: ignore[method-assign]


def no_dedupe() -> None:
    """A message that comes again is a new one, whatever its idempotency key."""
    enter = Inbox.enter

    def forgetful(self: Inbox, turn: Turn, keyed: Any = None) -> bool:
        if turn.request.number:
            return enter(self, turn, keyed)
        self.add(turn)
        return True

    Inbox.enter = forgetful  # type: ignore[method-assign]


def no_numbers() -> None:
    """What an outbox delivers again is new."""
    Inbox._is_next = lambda self, turn: True  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {plant.__name__: plant for plant in (no_fence, no_dedupe, no_numbers)}


def plant(name: str) -> None:
    """Switch the bug on in this process; "" is none."""
    if name:
        PLANTS[name]()
