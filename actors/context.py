"""What is known of the message that is being handled, by the code that runs."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from actors.lifecycle import Lifecycle
    from actors.turn import Turn


class Context(NamedTuple):
    """What is known of the message being handled."""

    sender: str
    """Address of the actor that sent it, "" for a client."""
    message_id: str
    deadline: float | None
    """When its caller stops waiting, on ``loop.time()``'s clock; None if it never does."""
    idempotency_key: str
    headers: dict[str, str]


current_turn: ContextVar["Turn | Lifecycle"] = ContextVar("agentsilo_turn")


def check_may(do: str) -> None:
    """Raise ``RuntimeError`` inside of a call that is to read only."""
    turn = current_turn.get(None)
    if turn is not None and turn.reads_only:
        raise RuntimeError(f"{turn.address}: a readonly handler cannot {do}")


def gathering_turn() -> "Turn | None":
    """The turn that runs here, if what it does to the world is committed with it."""
    turn = current_turn.get(None)
    return turn if turn is not None and turn.gathers else None  # type: ignore[return-value]  # a Lifecycle never does
