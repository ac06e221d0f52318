"""The first of several endpoints that answers, without waiting for those that do not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from actors.ports import Link

_HEAD_START: Final = 0.25  # seconds that an endpoint has before the next is tried, too


async def first_link(endpoints: Sequence[str], connect: Callable[[str], Awaitable[Link]], *, nobody: str) -> Link:
    """A link to one of the endpoints, preferably an early one.

    The next is tried as soon as one has failed, and also when one does not answer at once: a silo that is frozen or cut
    off refuses nothing. Raises ``ConnectionError`` that says why each of them failed, or ``nobody`` if there is none;
    whatever else ``connect`` raises ends it.
    """
    waiting = list(endpoints)
    reasons: dict[str, str] = {}
    trying: dict[asyncio.Future[Link], str] = {}
    try:
        while waiting or trying:
            if waiting:
                endpoint = waiting.pop(0)
                attempt: asyncio.Future[Link] = asyncio.ensure_future(connect(endpoint))
                attempt.add_done_callback(_hear)
                trying[attempt] = endpoint
            patience = _HEAD_START if waiting else None
            done, _ = await asyncio.wait(trying, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                endpoint = trying.pop(ended)
                try:
                    return ended.result()
                except ConnectionError as error:
                    reasons[endpoint] = str(error)
    finally:
        for slower in trying:
            slower.cancel()
    raise ConnectionError("; ".join(reasons[endpoint] for endpoint in endpoints if endpoint in reasons) or nobody)


def _hear(attempt: "asyncio.Future[Link]") -> None:
    """Another one was faster, so nobody else asks what became of it; asyncio would report that."""
    if not attempt.cancelled():
        attempt.exception()
