"""What readers of channels are told when nothing of a turn is to stay."""

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

    def __init__(self, offset: int) -> None:
        self.offset = offset
        """Up to where it was looked at."""
        self.first = -1
        """The first entry of the turn, -1 without one."""
        self.others: list[tuple[int, ChannelItem]] = []
        """What others have published behind that."""

    def add(self, offset: int, item: ChannelItem, message_id: str) -> None:
        self.offset = offset + 1
        if item.turn == message_id:
            self.first = offset if self.first < 0 else self.first
        elif self.first >= 0:
            if item.kind == "reset":
                discarded = msgspec.msgpack.decode(item.data, type=int)
                self.others = [other for other in self.others if other[0] < discarded]
                if discarded >= self.first:
                    return
            self.others.append((offset, item))

    def entries(self, message_id: str) -> list[ChannelItem]:
        """A reset to where the turn began to publish, and what others have published since then anew."""
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
    while behind := _behind(durable, run, pasts):
        if any(log.end < log.next for log, _ in behind) and not await activation.write(durable.compose()):
            return None  # else what was written before that is durable
        for log, past in behind:
            await _read(activation, log, past, message_id)
    for name, past in pasts.items():
        if past.first >= 0:
            effects.items[name] = past.entries(message_id)
    return effects


def _behind(durable: "Durable", run: Run, pasts: dict[str, _Past]) -> list[tuple[ChannelLog, _Past]]:
    """The channels that have entries which were not looked at yet."""
    behind: list[tuple[ChannelLog, _Past]] = []
    for name, log in (durable.channels or {}).items():
        past = pasts.setdefault(name, _Past(run.channels.get(name, durable.floor)))
        if name != TURNS and past.offset < log.next:
            behind.append((log, past))
    return behind


async def _read(activation: "Activation", log: ChannelLog, past: _Past, message_id: str) -> None:
    end = log.end
    while past.offset < end:
        found = await read_items(activation.runtime.store, activation.address, log.name, past.offset, end)
        for offset, item in found:
            past.add(offset, item, message_id)
        if not found:
            past.offset = end  # the rest is not retained
