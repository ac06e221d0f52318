"""One step of a turn: its body is run, tried again, and journaled, unless it was before."""

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from actors import codec, failure, records
from actors.effects import Effects
from actors.errors import StepInterrupted
from actors.interruption import cancellable
from actors.progress import Progress
from actors.records import Finished, Raised, Started
from actors.retry import Retry
from actors.step_names import label_of, quoted, shown_path

if TYPE_CHECKING:
    from actors.journal import Journal
    from actors.turn import Turn


class Step(NamedTuple):
    """The step that runs now: where it stands, and what it has done."""

    path: str
    effects: Effects


current_step: ContextVar[Step | None] = ContextVar("agentsilo_step", default=None)


async def run_step(
    journal: "Journal",
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    once: bool,
    retry: Retry | None,
) -> Any:
    """See ``Actor.step``."""
    if not callable(function):
        raise TypeError(f"step {name!r}: {function!r} is not callable")
    if once and retry is not None and retry.attempts > 1:
        raise ValueError(f"step {name!r}: a body that runs at most once cannot be retried")
    path, label = journal.enter(name), label_of(function)
    row = journal.take(path, label)
    if row is None:
        return await _run(journal, path, label, function, args, kwargs, once=once, retry=retry)
    if isinstance(row, Started):
        turn = journal.turn
        await turn.interruption.check()  # then it was not the silo that ended it, or not alone
        raise StepInterrupted(
            f"{turn.where}: step {quoted(path)} ({label}) was started once and its silo was lost before the "
            "result was journaled; it may have had effects and is not run again"
        )
    if isinstance(row, Raised):
        raise failure.to_original(row.failure)
    assert isinstance(row, Finished)
    value = row.value if row.value is not None else await journal.large(path)
    return codec.decode(value, trusted=True)


async def _run(
    journal: "Journal",
    path: str,
    label: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    once: bool,
    retry: Retry | None,
) -> Any:
    turn = journal.turn
    await journal.catch_up(path, label)
    elapsed, heard = journal.elapsed(), turn.interruption.heard
    progress = Progress(journal, shown_path(path))
    if once:
        await journal.record(path, Started(label, elapsed, heard), tell=progress.started())
    turn.check_runs()
    await turn.interruption.check()
    step = Step(path, Effects())
    token = current_step.set(step)
    journal.active += 1
    progress.begin()
    try:
        result = await _attempt(turn, function, args, kwargs, retry)
        payload, value = journal.round_trip(path, result)
    except Exception as error:
        raised = failure.raised(0, f"step {quoted(path)}", error)
        await journal.record(path, Raised(label, elapsed, raised, heard), tell=progress.failed(raised))
        raise
    finally:
        progress.end()
        journal.active -= 1
        current_step.reset(token)
    turn.check_runs()
    large = len(payload) > records.LARGE
    row = Finished(label, elapsed, None if large else payload, heard)
    beside = payload if large else None
    await journal.record(path, row, beside=beside, effects=step.effects, tell=progress.finished())
    return value


async def _attempt(
    turn: "Turn", function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], retry: Retry | None
) -> Any:
    if retry is None:
        return await cancellable(_call(turn, function, args, kwargs))
    pause = retry.delay
    for left in reversed(range(retry.attempts)):
        try:
            return await cancellable(_call(turn, function, args, kwargs))
        except Exception as error:
            if not left or not isinstance(error, retry.on):
                raise
            turn.activation.actor.log.warning("a step will be tried again in %g s: %r", pause, error)
        await asyncio.sleep(pause)
        turn.check_runs()
        pause = min(pause * retry.factor, retry.longest)
    raise AssertionError


async def _call(turn: "Turn", function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Await a coroutine function; run anything else in a thread, so that it cannot block the silo."""
    if _is_coroutine_function(function):
        return await function(*args, **kwargs)
    result = await turn.activation.runtime.step_threads.run(turn.where, function, args, kwargs)
    return await result if inspect.isawaitable(result) else result


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True  # the usual case, without inspect's detours
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
