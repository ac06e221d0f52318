"""``wait_for``: a turn that waits for a signal, for days if need be, and needs no memory meanwhile.

That it waits, and until when, is journaled. Once it is idle the activation may go: the turn's task is dropped and its
message stays in the inbox. A signal, a message or the deadline activates the actor again somewhere, the message runs
again, and its journal brings it back to where it waited.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from actors import codec, failure
from actors.records import LARGE, Finished, Raised, Waiting
from actors.step_names import WAIT

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.turn import Turn

_LABEL: Final = "wait_for"
_LONGEST = 3600.0  # the wall clock may be set meanwhile


class Wait(NamedTuple):
    """What the running turn waits for, and until when (seconds since 1970)."""

    turn: "Turn"
    name: str
    deadline: float


async def wait_for(turn: "Turn", name: str, timeout: float | None) -> Any:
    """See ``Actor.wait_for``."""
    journal, activation = turn.journal, turn.activation
    durable, clock = activation.durable_side, activation.runtime.clock
    path = journal.enter(name, WAIT)
    row = journal.take(path, _LABEL)
    if isinstance(row, Finished):
        return codec.decode(row.value if row.value is not None else await journal.large(path), trusted=True)
    if isinstance(row, Raised):
        raise failure.to_original(row.failure)
    await journal.catch_up(path, _LABEL)
    elapsed, heard = journal.elapsed(), turn.interruption.heard
    if not isinstance(row, Waiting):
        deadline = float("inf") if timeout is None else clock.time() + timeout
        row = None
    else:
        deadline = row.deadline
    while True:
        turn.check_runs()
        await turn.interruption.check()
        found = durable.signals.take(name)
        told = {"name": name, "waited": journal.elapsed() - elapsed}
        if found is not None:
            key, value = found
            large = len(value) > LARGE
            end = Finished(_LABEL, elapsed, None if large else value, heard)
            await journal.record(
                path,
                end,
                beside=value if large else None,
                drop=[key],
                tell=[*turn.untold, {"event": "continued", **told}],
            )
            return codec.decode(value, trusted=True)
        if durable.signals.is_coming(name):  # in time, unless the store does not take it
            await durable.signals.changed(_LONGEST)
            continue
        if clock.time() >= deadline:
            error = TimeoutError(f"{turn.where}: no signal {name!r} came in time")
            late = Raised(_LABEL, elapsed, failure.raised(0, turn.where, error), heard)
            await journal.record(path, late, tell=[*turn.untold, {"event": "timed_out", **told}])
            raise error
        await _rest(turn, Wait(turn, name, deadline), path, new=row is None)
        row = row or Waiting(_LABEL, elapsed, deadline)


async def _rest(turn: "Turn", wait: Wait, path: str, *, new: bool) -> None:
    """Wait until something has changed, which may be for so long that the activation goes."""
    activation, durable = turn.activation, turn.activation.durable_side
    clock = activation.runtime.clock
    own = turn.is_own_task()  # else other things of the turn may go on meanwhile
    if own:
        durable.wait = wait
    try:
        if new:
            durable.commits.forgive(turn)
            until = wait.deadline if wait.deadline != float("inf") else None
            tell = [*turn.untold, {"event": "waiting", "name": wait.name, "until": until}]
            row = Waiting(_LABEL, turn.journal.elapsed(), wait.deadline, turn.interruption.heard)
            await turn.journal.record(path, row, tell=tell)
        elif own and (turn.adoptions >= 0 or durable.wake_up.is_stale):
            durable.commits.forgive(turn)
            await activation.write(durable.commits.compose())
        turn.rests = own
        activation.rests()
        while not durable.signals.is_ready(wait.name) and (left := wait.deadline - clock.time()) > 0:
            await durable.signals.changed(min(left, _LONGEST))
    finally:
        if activation.runs(turn):
            turn.rests, durable.wait = False, None


def may_sleep(activation: "Activation", turn: "Turn") -> bool:
    """Whether the running turn, and what waits behind it, need the activation for nothing now."""
    hears = activation.runtime.hears
    if turn.pinned:
        return False
    return turn.dormant and not hears(turn) and not any(hears(other) for other in activation.mail())


def let_go(activation: "Activation", reason: str) -> None:
    """The activation goes: a turn that waits runs again, up to there, when and where there is a reason."""
    turn = activation.current
    if turn is None or not turn.dormant or (turn.pinned and reason != "shutdown"):
        return
    activation.roll_back(turn)
    if reason == "idle":  # nobody waits for any of these, and the store has them
        activation.drain_mail()
    activation.forget(turn, again=activation.runtime.hears(turn))
    if turn.task is not None:
        turn.task.cancel()
