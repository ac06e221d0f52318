"""Who does not stop when he is told to, and who holds up everybody: reported by name, with where he stands."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from actors.actor import Actor
from actors.interruption import cancellable
from actors.journal import Journal
from actors.turn import Turn

if TYPE_CHECKING:
    from actors.activation import Activation

log = logging.getLogger("actors")

BLOCKED: Final = 2.0
"""Seconds without a turn of the event loop after which somebody is said to block it."""


def expect_end(activation: "Activation", turn: Turn) -> None:
    """The turn was interrupted: say so if it goes on for longer than ``Settings.interrupt_patience``."""
    runtime = activation.runtime
    patience = runtime.settings.interrupt_patience
    runtime.loop.call_later(patience, _report_if_running, activation, turn, patience)


def _report_if_running(activation: "Activation", turn: Turn, patience: float) -> None:
    if activation.runs(turn) and not turn.ended and turn.task is not None:
        reason = turn.interruption.reason or "no reason given"
        log.warning(
            "%s: message %s was interrupted %g s ago (%s) and goes on. It stands at:\n%s",
            turn.where, turn.id, patience, reason, "".join(standing(turn.interruption.handler)),
        )  # fmt: skip


def standing(coroutine: Any) -> Iterator[str]:
    """Where a suspended coroutine stands, outermost frame first."""
    while coroutine is not None:
        frame, inner = None, None
        for kind in ("cr", "gi", "ag"):
            frame = frame or getattr(coroutine, f"{kind}_frame", None)
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            inner = inner or getattr(coroutine, name, None)
        if frame is not None:
            yield from traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
            if frame.f_code is cancellable.__code__:
                inner = frame.f_locals.get("body")
        coroutine = inner


class LoopWatch:
    """A thread that notices when nothing runs in an event loop, because something in it does not let go."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, *, limit: float = BLOCKED) -> None:
        self._loop, self._name, self._limit = loop, name, limit
        self._loop_thread = threading.get_ident()
        self._beat = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        """Watch from now on. Called in the loop's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        self._beat.set()

    def _watch(self) -> None:
        while not self._rest():
            self._beat.clear()
            try:
                self._loop.call_soon_threadsafe(self._beat.set)
            except RuntimeError:  # the loop is closed
                return
            self._wait_for_beat()

    def _rest(self) -> bool:
        """Wait until it is time to look again; whether there is nothing to look at any more."""
        pause = self._limit / 4
        lay_down = time.monotonic()
        over = self._over.wait(pause)
        late = time.monotonic() - lay_down - pause
        if late > self._limit and not over:
            frame = self._frame()
            log.warning(
                "%s: no thread of this process ran for %.1f s. It was frozen, or code in C held the interpreter's lock "
                "all the time. Now %s stands at:\n%s",
                self._name, late, who(frame), _stack(frame),
            )  # fmt: skip
        return over

    def _wait_for_beat(self) -> None:
        """Report what blocks the loop, and again where it still does so after twice as long, until it lets go."""
        patience = waited = self._limit
        asked = time.monotonic()
        while not self._beat.wait(patience):
            if self._loop.is_closed():
                return
            self._report(waited)
            patience *= 2
            waited += patience
        if waited > self._limit and not self._over.is_set():
            log.warning("%s: the event loop runs again, after %.1f s", self._name, time.monotonic() - asked)

    def _report(self, waited: float) -> None:
        frame = self._frame()
        log.warning(
            "%s: %s has blocked the event loop for %g s, and with it all actors of this silo. Await, or use "
            "self.step() with a plain function, which runs in a thread. It stands at:\n%s",
            self._name, who(frame), waited, _stack(frame),
        )  # fmt: skip

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._loop_thread)


def _stack(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame)) if frame is not None else ""


def who(frame: FrameType | None) -> str:
    """In whose name a thread runs the code of a frame: the handler and its message, or the actor."""
    actor = ""
    while frame is not None:
        found = frame.f_locals.get("self")
        turn = found.turn if isinstance(found, Journal) else frame.f_locals.get("turn")
        if isinstance(turn, Turn):
            return f"{turn.where} (message {turn.id})"
        if isinstance(found, Actor) and not actor:
            actor = f"{found.address}.{frame.f_code.co_name}"
        frame = frame.f_back
    return actor or "something"
