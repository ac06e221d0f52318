"""The running of a turn: from its arguments to the commit that its answer waits for."""

import asyncio
import logging
from typing import TYPE_CHECKING

from actors import failure
from actors.builtin import OWN, SUBSCRIBE
from actors.context import current_turn
from actors.envelope import Accepted, End, Envelope, Failure, Mode, Reply
from actors.errors import (
    ActorError,
    ChannelClosed,
    Interrupted,
    Rejected,
    SerializationFailed,
    TurnInterrupted,
)
from actors.handler import Lane
from actors.pump import pump
from actors.result import Unsendable, encode

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.turn import Turn

log = logging.getLogger("actors")


def interrupted_by(where: str, reason: str) -> TurnInterrupted:
    """What the caller of an interrupted turn gets."""
    return TurnInterrupted(f"{where} was interrupted" + (f": {reason}" if reason else ""))


def start(turn: "Turn") -> None:
    """Run the handler: at once if it cannot suspend, else as a task."""
    runtime = turn.activation.runtime
    turn.began = runtime.loop.time()
    context = runtime.context.copy()
    if turn.spec.suspends or turn.spec.streams or turn.recovered:
        turn.task = runtime.loop.create_task(_run(turn), context=context)
    else:
        context.run(_run_now, turn)


def _run_now(turn: "Turn") -> None:
    """Run a handler that has no point at which it could suspend."""
    current_turn.set(turn)
    try:
        answer, state = _call_now(turn)
    except Exception as error:  # of the engine: the turn must end all the same
        _broken(turn, error)
        return
    turn.ended = True
    if _can_settle(turn, state):
        turn.activation.settle(turn, answer)
    else:
        turn.task = turn.activation.runtime.loop.create_task(_finish(turn, answer, state))


def _call_now(turn: "Turn") -> tuple[Envelope, bytes | None]:
    try:
        args, kwargs = turn.spec.decode_arguments_of(turn.request)
    except SerializationFailed as error:
        _log_if_unheard(turn, error)
        return failure.refusal(turn.request.id, SerializationFailed(f"{turn.address}: {error}")), None
    if turn.interrupted:  # while it waited: it need not begin
        return _failed(turn, Interrupted(turn.interruption.reason)), None
    try:
        turn.spec.function(_actor(turn), *args, **kwargs).send(None)
    except StopIteration as stop:
        turn.ended = True
        return _succeeded(turn, stop.value)
    except BaseException as error:
        turn.ended = True
        return _failed(turn, error), None
    raise AssertionError(f"{turn.where}: a coroutine without an await suspended")


async def _run(turn: "Turn") -> None:
    current_turn.set(turn)
    try:
        answer, state = await _call(turn)
        turn.ended = True
        if turn.park_for is not None:
            await turn.activation.park(turn, turn.park_for)
        elif _can_settle(turn, state):
            turn.activation.settle(turn, answer)
        else:
            await _commit(turn, answer, state)
    except Exception as error:  # of the engine: the turn must end all the same
        _broken(turn, error)
    finally:
        turn.task = None  # a task holds its context, and that this turn: without the cycle both go at once


async def _finish(turn: "Turn", answer: Envelope, state: bytes | None) -> None:
    try:
        await _commit(turn, answer, state)
    except Exception as error:  # of the engine
        _broken(turn, error)
    finally:
        turn.task = None


async def _call(turn: "Turn") -> tuple[Envelope, bytes | None]:
    try:
        args, kwargs = turn.spec.decode_arguments_of(turn.request)
    except SerializationFailed as error:
        _log_if_unheard(turn, error)
        return failure.refusal(turn.request.id, SerializationFailed(f"{turn.address}: {error}")), None
    if turn.interrupted and not (turn.recovered or _has_journal(turn)):  # while it waited: it need not begin
        return _failed(turn, Interrupted(turn.interruption.reason)), None
    result = None
    try:
        try:
            if turn.seen and turn.journals:
                await turn.journal.write({})
            work = turn.spec.function(_actor(turn), *args, **kwargs)
            if turn.spec.streams:
                work = pump(turn, work)
            if turn.spec.lane is Lane.TURN:
                at_once = not _has_journal(turn) or turn.journal.comes_to_interrupt
                result = await turn.interruption.listen(work, at_once=at_once, goes_on=lambda: turn.goes_on)
            else:
                result = await work
        finally:
            if turn._journal is not None or (turn.recovered and turn.journals):
                await turn.journal.finish()
            turn.ended = True
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        turn.ended = True
        if turn.task is not None and not turn.activation.runs(turn):
            raise  # it was cancelled, and its caller told so
        return _failed(turn, error), None
    return _succeeded(turn, result)


def _has_journal(turn: "Turn") -> bool:
    """Whether it has to catch up with what a former activation has journaled of it."""
    return turn.activation.durable is not None and turn.activation.durable.has_journal(turn)


def _can_settle(turn: "Turn", state: bytes | None) -> bool:
    """Whether there is nothing to wait for, and nothing to write."""
    if state is not None or _must_wait(turn):
        return False
    writes = turn.row or turn.effects or turn.is_remembered or turn.interrupted or turn.seen or turn.steering
    return turn.activation.durable is None or not writes


def _log_if_unheard(turn: "Turn", error: BaseException) -> None:
    if turn.request.mode is Mode.SEND:
        log.error("%s failed, and its sender waits for no answer: %s", turn.where, error, exc_info=error)


def _broken(turn: "Turn", error: Exception) -> None:
    log.error("%s: the turn could not be ended in good order", turn.where, exc_info=error)
    turn.activation.fail_turn(turn, ActorError(f"{turn.where}: internal error: {error!r}; nothing was committed"))


def _must_wait(turn: "Turn") -> bool:
    """Whether the answer tells of what a commit that is under way has yet to make durable."""
    if turn.spec.lane is not Lane.CONTROL or turn.spec.name == SUBSCRIBE:
        return False
    return turn.activation.committing is not None


async def _commit(turn: "Turn", answer: Envelope, state: bytes | None) -> None:
    waited = False
    while (committing := turn.activation.committing) is not None and _must_wait(turn):
        waited = True
        await asyncio.shield(committing)
    if waited:
        try:
            if isinstance(answer, Failure):
                turn.activation.roll_back(turn)
            else:
                state = turn.activation.unsaved(turn)
        except SerializationFailed as error:
            answer, state = failure.refusal(turn.request.id, error), None
    if turn.effects is not None and turn.effects.items:
        try:
            turn.activation.durable_side.commits.check_open(turn.effects)
        except ChannelClosed as error:  # by a call beside it, at this moment
            answer, state = _failed(turn, error), None
    if await turn.activation.commit(turn, answer, state):
        turn.activation.settle(turn, answer)


def _succeeded(turn: "Turn", value: object) -> tuple[Envelope, bytes | None]:
    """The answer for a result, and the state to commit before it may leave."""
    request = turn.request
    if turn.rolls_back:
        return _failed(turn, Interrupted(turn.interruption.reason)), None
    if turn.undone_by:
        error = RuntimeError(f"{turn.where}: {turn.undone_by} failed meanwhile, and what both had changed was undone")
        return _failed(turn, error), None
    changed = turn.view.change(turn.address) if turn.view is not None else ""
    if changed:
        error = RuntimeError(f"{turn.where}: a readonly handler cannot change {changed}; nothing was changed")
        return _failed(turn, error), None
    try:
        answer: Envelope
        if request.mode is Mode.ASK or (request.key and request.mode is Mode.SEND):
            answer = Reply(request.id, encode(turn, value, "result"))
        elif request.mode is Mode.SEND:
            answer = Accepted(request.id)
        else:
            answer = End(request.id)
        try:
            return answer, turn.activation.unsaved(turn)
        except SerializationFailed as error:
            raise Unsendable(error) from None
    except Unsendable as error:
        return _failed(turn, error), None


def _failed(turn: "Turn", error: BaseException) -> Envelope:
    interrupted = turn._interruption is not None and turn._interruption.of(error)
    turn.effects = turn.effects.published() if interrupted and turn.effects is not None else None
    if turn.rolls_back:
        turn.effects = turn.park_for = None
    if not _must_wait(turn):
        turn.activation.roll_back(turn)
    if interrupted:
        assert turn._interruption is not None
        return failure.refusal(turn.request.id, interrupted_by(turn.where, turn._interruption.reason or ""))
    _log_if_unheard(turn, error)
    if isinstance(error, Unsendable):
        return failure.refusal(turn.request.id, error.reason)
    if turn.spec.builtin and isinstance(error, Rejected) and turn.request.handler not in OWN:
        return failure.refusal(turn.request.id, error)  # of the engine itself
    return failure.raised(turn.request.id, turn.where, error)


def _actor(turn: "Turn") -> "Actor":
    """The actor as its handler may see it."""
    if turn.spec.lane is Lane.READ:
        turn.view = turn.activation.view()
    return turn.view.actor if turn.view is not None else turn.activation.actor
