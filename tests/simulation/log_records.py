"""The silos' logs, as part of the history."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tests.simulation.history import History
from tests.simulation.subjects import Planned


class _LogRecords(logging.Handler):
    """What the silos log becomes part of the history; an internal error is a violation."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.WARNING)
        self.history = history

    def emit(self, record: logging.LogRecord) -> None:
        if self.history.loop.is_closed():
            return  # the run is over, and what was under way is taken down
        error = record.exc_info[1] if record.exc_info else None
        text = f"log: {record.getMessage()}"
        self.history.note(text if error is None else f"{text} ({error!r})")
        slow_store = isinstance(error, TimeoutError) and "activation failed" in text
        dropped = isinstance(error, asyncio.CancelledError)  # the turn, with its activation
        if error is not None and not isinstance(error, Planned) and not slow_store and not dropped:
            self.history.violate("no internal errors", record.name, expected="none", actual=f"{text}: {error!r}")


@contextmanager
def recorded(history: History) -> Iterator[None]:
    """Inside, the loggers write into the history and nowhere else."""
    handler = _LogRecords(history)
    loggers = [logging.getLogger(name) for name in ("actors", "cluster")]
    before = [(logger, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, propagate, level in before:
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)
