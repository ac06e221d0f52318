"""What a message does to a turn that runs when it comes: ``on_busy``."""

from typing import TYPE_CHECKING

from actors.envelope import Mode
from actors.errors import Busy, Rejected
from actors.handler import Lane

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.turn import Turn


def _policy(turn: "Turn") -> str:
    if turn.spec.builtin or turn.spec.lane is not Lane.TURN:
        return "queue"
    return turn.request.on_busy or turn.activation.type.options.on_busy


def check(activation: "Activation", turn: "Turn") -> None:
    """Raise ``Busy`` if the message must not wait where it would have to, ``Rejected`` if what it wants cannot be."""
    wanted = _policy(turn)
    if wanted == "reject" and (activation.current is not None or any(activation.mail())):
        running = activation.current
        what = f"{running.spec.name or 'receive'} runs" if running is not None else "messages wait"
        raise Busy(f"{turn.where}: {what}, and the message asked not to wait; it did not run")
    if wanted == "rollback" and activation.durable is None:
        raise Rejected(f'{turn.where}: on_busy="rollback" needs persist="turn": there is nothing to go back to')


def meet(activation: "Activation", turn: "Turn") -> bool:
    """The message waits now: do to the running turn, if there is one, what it wants. Whether that has to be durable."""
    running, wanted = activation.current, _policy(turn)
    if running is None or wanted in ("queue", "reject"):
        return False
    if wanted == "steer":
        if turn.request.mode is Mode.STREAM:
            return False
        turn.into = running.request.message_id
        return True
    reason = f"message {turn.request.message_id} came"
    if not activation.stop(running, reason, rollback=wanted == "rollback"):
        return False
    if activation.durable is not None:
        activation.durable.commits.interrupt(running)
    return True
