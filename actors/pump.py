"""The items of a stream, sent while its reader has room for them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from actors import failure
from actors.envelope import Item, Mode, item_cost
from actors.errors import Timeout
from actors.result import encode

if TYPE_CHECKING:
    from actors.turn import Turn


async def pump(turn: "Turn", items: AsyncGenerator[Any, None]) -> None:
    """Send the items while the reader has room for them. A reader that left stops nothing."""
    unread = 0
    try:
        async for item in items:
            if _read_by_nobody(turn):
                unread += 1
                if unread % 64 == 0:  # a generator that never waits must not hold up the loop
                    await asyncio.sleep(0)
                continue
            payload = encode(turn, item, "item")
            await _room_for_more(turn)
            if not _read_by_nobody(turn) and turn.activation.runtime.may_act():
                turn.credit -= item_cost(payload)
                turn.origin.send(Item(turn.request.id, payload))
    finally:
        await items.aclose()


def _read_by_nobody(turn: "Turn") -> bool:
    return turn.left or turn.request.mode is not Mode.STREAM


async def _room_for_more(turn: "Turn") -> None:
    limit = turn.activation.runtime.settings.call_timeout
    while turn.credit <= 0 and not turn.left:
        turn._room = turn.activation.runtime.loop.create_future()
        try:
            async with asyncio.timeout(limit):
                await turn._room
        except TimeoutError:  # a reader that takes nothing must not hold the actor for ever
            turn.activation.runtime.forget_stream(turn)
            turn.origin.send(
                failure.refusal(turn.request.id, Timeout(f"{turn.where}: its reader took nothing for {limit:g} s"))
            )
            turn.leave()
