"""What an actor runs now: for an operator who wonders why it does not answer."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from actors.handler import Lane
from actors.turn import Turn
from actors.watchdog import standing

if TYPE_CHECKING:
    from actors.activation import Activation


class Running(msgspec.Struct, frozen=True):
    """A message that is being handled."""

    address: str
    message_id: str
    handler: str
    lane: str
    """"turn", "readonly" or "control"."""
    seconds: float
    """How long ago it began to run here."""
    doing: str
    """"runs", "waits" (for a signal) or "commits"."""
    stack: list[str]
    """Where its handler stands, outermost frame first; empty once that has ended."""


def running(activation: "Activation") -> list[Running]:
    """What runs in an activation: its turn first, then the calls beside it, but not those who read its channels."""
    return [_describe(turn) for turn in activation.running() if not turn.spec.builtin]


def longest(activations: Iterable["Activation"]) -> Running | None:
    """The turn that has run for the longest time, those that wait for a signal aside."""
    oldest: Turn | None = None
    for activation in activations:
        turn = activation._turn
        if turn is not None and turn.began and not turn.rests and (oldest is None or turn.began < oldest.began):
            oldest = turn
    return _describe(oldest) if oldest is not None else None


def _describe(turn: Turn) -> Running:
    now = turn.activation.runtime.loop.time()
    doing = "commits" if turn.ended else "waits" if turn.rests else "runs"
    return Running(
        turn.address,
        turn.id,
        turn.request.handler or "receive",
        turn.spec.lane.value,
        now - turn.began if turn.began else 0.0,
        doing,
        [] if turn.ended else list(_stack(turn)),
    )


def _stack(turn: Turn) -> Iterable[str]:
    if turn.spec.lane is Lane.TURN:
        return standing(turn.interruption.handler)
    return standing(turn.task.get_coro()) if turn.task is not None else ()
