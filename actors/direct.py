"""Commits without a message, for callers that live and die with the actor's silo, such as its gateway.

A message has an id, a place in the mailbox, a task and a kept answer, so that its sender may ask again when the silo is
lost. Who would be lost with it needs none of that: it changes an actor of which nothing runs at that moment, as a turn
would, without an await, and then commits what it did.
"""

from typing import TYPE_CHECKING

from actors import writing
from actors.effects import Effects
from actors.errors import ConnectionLost, Timeout

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.runtime import Runtime


def find_free(runtime: "Runtime", address: str) -> "Activation | None":
    """The activation of the address, if it is here and a turn that nobody watches could begin at once.

    What is done to its actor before the next await is done as in a turn. Then ``commit`` it, or ``roll_back_state``.
    """
    activation = runtime.activations.get(address)
    if activation is None or not activation.is_free or not runtime.may_take(address):
        return None
    durable = activation.durable
    return activation if durable is not None and not durable.tells_of_turns else None


async def commit(activation: "Activation", effects: Effects, *, state: bool, timeout: float) -> None:
    """Make the effects durable, and (``state``) what was changed of the state; nothing may be seen of them before.

    No turn begins meanwhile, also when this is cancelled: then the commit goes on. Raises ``ConnectionLost`` if the
    activation has ended, which does not tell whether it was applied; ``Timeout``; another ``ActorError`` if it was not.
    """
    runtime = activation.runtime
    activation.last_used = runtime.loop.time()
    changed = activation.unsaved_state() if state else None
    if changed is None and not effects:
        return
    write = activation.durable_side.commits.apart(effects, changed)
    activation.hold_turns()
    limit = runtime.limits.begin(timeout)
    try:
        error = await writing.attempt(activation, write)
    except BaseException:
        runtime.spawn(_let_go_when_written(activation))
        if runtime.limits.end(limit):
            late = f"{activation.address}: the store did not answer in {timeout:g} s; it may do it yet"
            raise Timeout(late) from None
        raise
    runtime.limits.end(limit)
    activation.let_turns_go()
    if error is not None:
        raise error
    activation.setbacks = 0
    if not runtime.may_act():
        runtime.stop_acting()
        raise ConnectionLost(f"{activation.address}: its silo lost its lease while the commit was under way")


async def _let_go_when_written(activation: "Activation") -> None:
    await activation.durable_side.written()
    activation.let_turns_go()
