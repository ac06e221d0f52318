"""The handler that every actor has for the readers of its channels."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from actors import codec, records
from actors.channel_log import ChannelLog
from actors.compaction import Compactor, Entry
from actors.errors import OffsetGone, SerializationFailed
from actors.ports import Store
from actors.records import CLOSED, ChannelItem
from actors.turn_log import TURNS

if TYPE_CHECKING:
    from actors.actor import Actor

_HELD: Final = 256 * 1024  # of a history that is merged, before it is passed on


async def subscribe(
    actor: "Actor",
    channel: str,
    after: int | None,
    compact: bool = False,  # noqa: FBT001, FBT002  # an argument on the wire
) -> AsyncIterator[Any]:
    """The entries of a channel behind an offset, as (offset, kind, value, turn), and then those to come.

    ``compact``: those that are there already come merged, see ``Compactor``. Ends with "closed" if the channel was
    closed or deleted; an end without it means that the activation goes. Raises ``OffsetGone`` where the next entry is
    not retained any more.
    """
    activation = actor._activation
    durable, store, address = activation.durable_side, activation.runtime.store, activation.address
    log = durable.channel(channel)
    if after is not None and after < durable.floor - 1:
        yield _encoded(durable.floor - 1, "closed", None)
        return
    mark, compactor = log.end, Compactor(0 if after is None else after + 1) if compact else None
    log.join()
    try:
        if channel == TURNS:
            await durable.turn_log.catch_up()
        async for entries in _pages(log, store, address, after):
            after = entries[-1][0]
            if compactor is None:
                told = [_encoded(found, item.kind, msgspec.Raw(item.data), item.turn) for found, item in entries]
            else:
                for found, item in entries:
                    compactor.add(_entry(found, item))
                if compactor.size < _HELD and after + 1 < mark:
                    continue
                told = [_encoded(*entry[:4]) for entry in compactor.take()]
                compactor = compactor if after + 1 < mark else None
            for event in told:
                yield event
            if entries[-1][1].kind == "closed":
                return
        if log.erased:
            yield _encoded(durable.floor - 1, "closed", None)
        elif log.over:
            yield _encoded(log.end - 1, "closed", msgspec.Raw(CLOSED))
    finally:
        log.leave()


async def _pages(
    log: ChannelLog, store: Store, address: str, after: int | None
) -> AsyncIterator[list[tuple[int, ChannelItem]]]:
    """The entries as they come; ends when the channel or the activation does."""
    offset = log.begin if after is None else after + 1
    while True:
        while log.lacks(offset):
            await log.change()
        if not log.may_give(offset):
            return
        try:
            entries = await log.read(store, address, offset)
        except OffsetGone as gone:
            if after is not None:
                raise
            offset = gone.first  # it asked for what is retained, and some of that went just now
            continue
        if not entries:
            return
        yield entries
        after = entries[-1][0]
        offset = after + 1


def _entry(offset: int, item: ChannelItem) -> Entry:
    """A stored entry, decoded if it may be merged with others."""
    data: object = msgspec.Raw(item.data)
    first = item.data[0]
    if item.kind == "reset" or 0x80 <= first <= 0x8F or 0xA0 <= first <= 0xBF or first in _TEXTS_AND_MAPS:
        with contextlib.suppress(SerializationFailed):  # a pickle in it: it stays as it is
            data = codec.decode(item.data, trusted=False)
    return Entry(offset, item.kind, data, item.turn, item.begins)


_TEXTS_AND_MAPS: Final = frozenset({0xD9, 0xDA, 0xDB, 0xDE, 0xDF})  # with their lengths behind, in MessagePack


def _encoded(offset: int, kind: str, data: object, turn: str = "") -> msgspec.Raw:
    return msgspec.Raw(records.encode((offset, kind, msgspec.Raw(codec.encode(data)), turn)))
