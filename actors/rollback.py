"""What readers of channels are told when nothing of a turn, or of a stream, is to stay."""

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec

from actors.channel_log import ChannelLog, read_items
from actors.effects import Effects
from actors.records import ChannelItem, Run, encode
from actors.turn_log import TURNS

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.durable import Durable
    from actors.turn import Turn


class _Past:
    """What a channel got since a turn began."""

    def __init__(self, offset: int, goes: Callable[[int, ChannelItem], bool], *, first: int = -1) -> None:
        self.offset = offset
        """Up to where it was looked at."""
        self.goes = goes
        """Whether an entry is one of those that are discarded for good."""
        self.first = first
        """The first of them, -1 without one."""
        self.others: list[tuple[int, ChannelItem]] = []
        """What there is behind that, and stays."""

    def add(self, offset: int, item: ChannelItem) -> None:
        self.offset = offset + 1
        if self.goes(offset, item):
            self.first = offset if self.first < 0 else self.first
        elif self.first >= 0:
            if item.kind == "reset":
                discarded = msgspec.msgpack.decode(item.data, type=int)
                self.others = [other for other in self.others if other[0] < discarded]
                if discarded >= self.first:
                    return
            self.others.append((offset, item))

    def entries(self, message_id: str) -> list[ChannelItem]:
        """A reset to the first one that goes, and what stays anew."""
        return [ChannelItem("reset", encode(self.first), turn=message_id), *(item for _, item in self.others)]


async def unpublish(activation: "Activation", turn: "Turn") -> Effects | None:
    """What lets readers discard everything that the turn has published before its end; None if the activation ended.

    Has seen all that there is in the channels when it returns. Raises ``StoreUnavailable``.
    """
    durable, message_id = activation.durable_side, turn.request.message_id
    effects = Effects()
    run = durable.turn_log.begun(turn)
    if run is None:
        return effects
    pasts: dict[str, _Past] = {}
    while behind := _behind(durable, run, pasts, message_id):
        if any(log.end < log.next for log, _ in behind) and not await activation.write(durable.commits.compose()):
            return None  # else what was written before that is durable
        for log, past in behind:
            await _read(activation, log, past)
    for name, past in pasts.items():
        if past.first >= 0:
            effects.items[name] = past.entries(message_id)
    return effects


async def start_anew(
    activation: "Activation", log: ChannelLog, message_id: str, first: int, streamed: Collection[int]
) -> list[ChannelItem]:
    """What lets readers discard what a stream has published from offset ``first`` on, as it is all told anew.

    What others have published meanwhile is told again, which is all but the offsets ``streamed``. Has seen all that
    there is when it returns. Raises ``StoreUnavailable``, and ``CancelledError`` if the activation ended.
    """
    past = _Past(first, lambda offset, _: offset in streamed, first=first)
    while past.offset < log.next:
        if log.end < log.next and not await activation.write(activation.durable_side.commits.compose()):
            raise asyncio.CancelledError(f"{activation.address}: the turn was given up")
        await _read(activation, log, past)
    return past.entries(message_id)


def _behind(durable: "Durable", run: Run, pasts: dict[str, _Past], message_id: str) -> list[tuple[ChannelLog, _Past]]:
    """The channels that have entries which were not looked at yet."""
    behind: list[tuple[ChannelLog, _Past]] = []
    for name, log in (durable.channels or {}).items():
        begin = run.channels.get(name, durable.floor)
        past = pasts.setdefault(name, _Past(begin, lambda _, item: item.turn == message_id))
        if name != TURNS and past.offset < log.next:
            behind.append((log, past))
    return behind


async def _read(activation: "Activation", log: ChannelLog, past: _Past) -> None:
    end = log.end
    while past.offset < end:
        found = await read_items(activation.runtime.store, activation.address, log.name, past.offset, end)
        for offset, item in found:
            past.add(offset, item)
        if not found:
            past.offset = end  # the rest is not retained
