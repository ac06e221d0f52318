"""Waiting for what a test expects: with a limit and a message, never with a sleep."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from actors.errors import ActorError

T = TypeVar("T")


async def eventually(
    what: str, condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, within: float = 15.0
) -> None:
    """Poll until the condition holds; fail with ``what`` was awaited after ``within`` seconds."""
    end = time.monotonic() + within
    while True:
        outcome = condition()
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        if outcome:
            return
        assert time.monotonic() < end, f"not within {within} s: {what}"
        await asyncio.sleep(0.01)


async def answered(what: str, call: Callable[[], Awaitable[T]], *, within: float) -> tuple[T, float]:
    """Call until it is answered without an ``ActorError``; return the answer and the seconds that this took."""
    started = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(max(within, 1)):
                return await call(), time.monotonic() - started
        except ActorError as error:
            if time.monotonic() - started > within:
                raise AssertionError(f"not within {within} s: {what}") from error
            await asyncio.sleep(0.02)
