"""Handlers that every actor has. Their names begin with ``$``, so that no user's handler can be meant."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from actors import codec, failure, publishing, records, subscribing
from actors.context import current_turn
from actors.errors import MessageParked, Rejected
from actors.handler import Lane
from actors.publishing import gathered
from actors.records import BESIDE, JOURNAL, MESSAGE, PARKED, Done, Parked, Pending
from actors.ref import INTERRUPT, SIGNAL

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.turn import Turn

REMINDER: Final = "$reminder"
TIMER: Final = "$timer"
SUBSCRIBE: Final = "$subscribe"
PUBLISH: Final = "$publish"
CLOSE: Final = "$close"
APPEND: Final = "$append"
DELETE: Final = "$delete"
RESOLVE: Final = "$parked"

OWN: Final = (REMINDER, TIMER)
"""What an activation sends to itself."""


async def reminder(actor: "Actor", name: str) -> None:
    """A reminder is due."""
    await actor.on_reminder(name)


async def timer(actor: "Actor", number: int) -> None:
    """A timer has fired."""
    found = actor._activation.timers.get(number)
    if found is not None:
        await found.run()


async def interrupt(actor: "Actor", reason: str, message_id: str = "", unless_after: int = -1) -> bool:
    """Stop the running turn, or the one of a message; returns whether there was one to stop.

    ``unless_after``: not if the message has come again, after it had come so often in vain.
    """
    activation = actor._activation
    if unless_after >= 0 and activation.came_again(message_id, unless_after):
        return False
    found = activation.interrupt(reason, message_id)
    if found is not None and activation.durable is not None:
        activation.durable.commits.interrupt(found)
        await activation.write(activation.durable.commits.compose())
    return found is not None


async def signal(actor: "Actor", name: str, value: Any) -> None:
    """Somebody has a value for a turn that waits for it, or will."""
    activation = actor._activation
    if activation.durable is None:
        raise Rejected(f'{actor.address}: signals need class {type(actor).__name__}(Actor, persist="turn")')
    payload = codec.encode(value)
    activation.durable.signals.make_room(name, payload)
    gathered().signals.append((name, payload))


async def delete(actor: "Actor") -> None:
    """Erase everything that is stored of the actor, and begin anew."""
    activation = actor._activation
    if activation.durable is None:
        if activation.type.stored:
            await activation.erase()
        cast("Turn", current_turn.get()).gathered.renew = True
        return
    effects = gathered()
    effects.erase = effects.renew = True


async def resolve_parked(actor: "Actor", action: str, message_id: str) -> str:
    """What an operator decides about a parked message; returns what it was.

    "retry": run it again, with its journal. "skip": it failed; repeats of it get that answer. "drop": it never was.
    """
    if action not in ("retry", "skip", "drop"):
        raise Rejected(f"{actor.address}: a parked message can be retried, skipped or dropped, not {action!r}")
    activation = actor._activation
    durable, store, address = activation.durable_side, activation.runtime.store, activation.address
    rows = await store.read(address, PARKED, _behind(PARKED), limit=10_000)
    parked = {
        row.request.message_id: (key[1:], row)
        for key, row in ((k, msgspec.msgpack.decode(v, type=Parked)) for k, v in rows)
    }
    if message_id not in parked:
        raise Rejected(f"{address}: no message {message_id!r} is parked (parked: {', '.join(parked) or 'none'})")
    number, row = parked[message_id]
    effects = gathered()
    effects.drop.append(PARKED + number)
    if action == "retry":
        effects.put[MESSAGE + number] = records.encode(Pending(row.request))
        effects.renew = True
        durable.rows += 1
    else:
        for first in (JOURNAL + number, BESIDE + JOURNAL + number):
            effects.drop += [key for key, _ in await store.read(address, first, _behind(first), limit=1_000_000)]
        if action == "skip":
            refusal = failure.refusal(0, MessageParked(f"{address}: the message was skipped: {row.reason}"))
            expires = activation.runtime.clock.time() + activation.runtime.settings.retention
            effects.put[MESSAGE + number] = records.encode(Done(message_id, expires, records.encode(refusal)))
            effects.renew = True
    durable.inbox.parked.pop(message_id, None)
    return f"{row.request.handler or 'receive'}: {row.reason}"


def _behind(prefix: bytes) -> bytes:
    """The smallest key behind all that begin with the prefix."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


HANDLERS: Final[dict[str, tuple[Lane, Callable[..., Any]]]] = {
    REMINDER: (Lane.TURN, reminder),
    TIMER: (Lane.TURN, timer),
    SUBSCRIBE: (Lane.CONTROL, subscribing.subscribe),
    PUBLISH: (Lane.CONTROL, publishing.publish),
    CLOSE: (Lane.CONTROL, publishing.close),
    APPEND: (Lane.CONTROL, publishing.append),
    INTERRUPT: (Lane.CONTROL, interrupt),
    SIGNAL: (Lane.CONTROL, signal),
    DELETE: (Lane.TURN, delete),
    RESOLVE: (Lane.TURN, resolve_parked),
}

PUBLIC: Final = frozenset({APPEND})
"""What can be called from outside of the cluster; they look for themselves whether the class is public."""
