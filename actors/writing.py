"""Commits of an activation on their way to the store."""

import asyncio
import logging
from typing import TYPE_CHECKING

from actors.commits import Write
from actors.errors import ActorError, ClusterUnavailable, ConnectionLost, Interrupted, OutcomeUnknown
from actors.ports import Commit, Fenced, StoreUnavailable
from actors.turn import Turn

if TYPE_CHECKING:
    from actors.activation import Activation

log = logging.getLogger("actors")


async def write(activation: "Activation", write: Write, turn: Turn | None = None) -> bool:
    """Hand a commit to the store. Returns False if it failed, which ends the activation."""
    return await attempt(activation, write, turn) is None


async def attempt(activation: "Activation", write: Write, turn: Turn | None = None) -> ActorError | None:
    """The same; returns why it failed.

    ``ConnectionLost`` says that the activation has ended, and nothing of whether the commit was applied.
    """
    if activation.gone or activation._broken:
        return _ended(activation)
    if not activation.runtime.may_act():
        activation.runtime.stop_acting()
        return _ended(activation)
    if activation.durable is not None:
        activation.durable.writes += 1
    try:
        await activation.runtime.store.commit(write.commit)
    except (asyncio.CancelledError, Interrupted):  # of who waits: the store goes on
        if not activation.gone:
            activation.runtime.spawn(_follow_up(activation, write))
        raise
    except Exception as error:
        activation._broken = True
        reason = why_refused(activation, error)
        activation.fail_turn(turn, reason)
        return reason
    else:
        if activation.gone:
            return _ended(activation)
        for then in write.then:
            then()
        return None
    finally:
        if activation.durable is not None:
            activation.durable.write_ended()
            if activation._closing_for is not None:
                activation._schedule_next()


def _ended(activation: "Activation") -> ConnectionLost:
    return ConnectionLost(f"{activation.address} is not here any more; the message may have run")


async def _follow_up(activation: "Activation", wanted: Write) -> None:
    """Learn whether a commit that nobody waits for was applied, and then let out what waited for it.

    An empty commit behind it tells: it is refused if that one was.
    """
    await write(activation, Write(Commit(address=activation.address, epoch=activation.epoch), wanted.then))


def why_refused(activation: "Activation", error: Exception) -> ActorError:
    """What the caller of a turn is told when the store does not do its part."""
    if isinstance(error, Fenced):
        log.warning("%s: another activation took over (%s)", activation.address, error)
        return ConnectionLost(f"{activation.address} moved while the turn ran; the turn committed nothing")
    if isinstance(error, StoreUnavailable):
        log.error("%s: a commit was refused: %s", activation.address, error)
        return ClusterUnavailable(f"{activation.address}: the state could not be stored, nothing took effect: {error}")
    log.error("%s: the store failed unexpectedly", activation.address, exc_info=error)
    return OutcomeUnknown(f"{activation.address}: the store failed unexpectedly: {error!r}")
