"""How the threads of a store answer the event loop, and what they say of SQLite's errors."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cluster.store.sqlite_holder import find_writer
from cluster.store.sqlite_schema import is_busy

_T = TypeVar("_T")


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    """Call back in the event loop, from another thread."""
    with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
        loop.call_soon_threadsafe(callback, *arguments)


def resolve(future: "asyncio.Future[_T]", result: "_T | Exception") -> None:
    """Give the future its result or exception, unless its caller was cancelled."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def explain(error: sqlite3.Error, path: Path, *, busy_timeout: float) -> str:
    """What happened to the file, in a line."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if is_busy(error):
        cause = f"{find_writer(path) or 'another process'} held it for {busy_timeout:g} s"
    elif name == "SQLITE_FULL":
        cause = "the disk is full (it goes on by itself once there is space)"
    else:
        cause = f"{error} ({name})"
    return f"{path}: {cause}"
