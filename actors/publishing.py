"""Handlers that every actor has, for those who publish to its channels from outside of it."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from actors import codec
from actors.context import check_may, current_turn, gathering_turn
from actors.effects import Effects
from actors.errors import CallCycle, NotAuthorized, SerializationFailed, UnknownHandler
from actors.producers import Producer, Verdict
from actors.records import CLOSED, ChannelItem

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.channel_log import ChannelLog
    from actors.lifecycle import Lifecycle
    from actors.turn import Turn


def gathered() -> Effects:
    """What the running turn is to commit."""
    turn = gathering_turn()
    assert turn is not None
    return turn.gathered


def check_public(address: str, channel: str) -> None:
    """Raise ``NotAuthorized`` for a channel in which only the engine writes."""
    if channel.startswith("$"):
        raise NotAuthorized(f"{address}/{channel}: the engine alone publishes to channels whose names begin with $")


async def publish_own(turn: "Turn | Lifecycle", channel: str, items: Iterable[object]) -> None:
    """Add entries to a channel of the actor whose turn runs: as ``Channel.publish`` for each of them."""
    where = f"{turn.address}/{channel}"
    entries = []
    for item in items:
        try:
            payload = codec.encode(item)
        except Exception as error:
            raise SerializationFailed(f"{where}: {type(item).__name__} cannot be published: {error}") from error
        turn.activation.runtime.check_size(payload, where)
        entries.append(ChannelItem("item", payload))
    await add_entries(turn, channel, entries)


async def add_entries(turn: "Turn | Lifecycle", channel: str, entries: list[ChannelItem]) -> None:
    """Entries of the actor's own: part of the commit of the turn that runs, if one does."""
    durable = turn.activation.durable_side
    check_public(turn.address, channel)
    log = durable.channel(channel)
    check_may("publish")
    closing = entries[-1].kind == "closed"
    gathering = gathering_turn()
    if gathering is not None:
        if gathering.has_closed(channel):
            if not closing:
                raise log.is_closed(turn.address)
            return
        if not closing:
            log.check_open(turn.address, gathering)
        gathering.hold(log)
        for entry in entries:
            entry.turn = gathering.request.message_id
        gathering.gathered.items.setdefault(channel, []).extend(entries)
        return
    if not closing:
        log.check_open(turn.address)
    effects = Effects()
    effects.items[channel] = entries
    await turn.activation.runtime.apply(turn.activation, durable.commits.apart(effects))


async def publish(actor: "Actor", channel: str, value: Any) -> None:
    """Add an entry to a channel."""
    check_public(actor.address, channel)
    actor._activation.durable_side.channel(channel).check_open(actor.address)
    gathered().items.setdefault(channel, []).append(ChannelItem("item", codec.encode(value)))


async def close(actor: "Actor", channel: str) -> None:
    """Close a channel, behind what running turns have published."""
    check_public(actor.address, channel)
    await _settle(actor, actor._activation.durable_side.channel(channel))
    gathered().items.setdefault(channel, []).append(ChannelItem("closed", CLOSED))


async def append(
    actor: "Actor",
    channel: str,
    values: list[Any],
    closes: bool,  # noqa: FBT001  # an argument on the wire
    producer: tuple[str, int, int] | None,
) -> list[Any]:
    """Add entries to a channel, and close it if asked to, all in one commit: for who is outside of the cluster.

    ``producer``: name, epoch and sequence number of an idempotent producer. Returns the ``Verdict`` as a list. Raises
    ``NotAuthorized`` unless the class is public, and ``ChannelClosed``.
    """
    if not actor._options.public:
        raise NotAuthorized(f"{actor.address}/{channel}: from outside only channels of public classes are appended to")
    check_public(actor.address, channel)
    if actor._activation.durable is None:
        raise UnknownHandler(f'{actor.address}: it has no channels; they need class X(Actor, persist="turn")')
    log = actor._activation.durable_side.channel(channel)
    items = [ChannelItem("item", codec.encode(value)) for value in values]
    if closes:
        await _settle(actor, log)
        items.append(ChannelItem("closed", CLOSED))
    if producer is not None:
        return [*await _append_once(actor, log, items, producer)]
    _check_open(actor, log, items)
    gathered().items.setdefault(channel, []).extend(items)
    return [*Verdict("ok", 0, 0)]


async def _append_once(
    actor: "Actor", log: "ChannelLog", items: list[ChannelItem], producer: tuple[str, int, int]
) -> Verdict:
    """Append unless the producer has done so before. What it has written is stored in the same commit."""
    activation, (name, epoch, seq) = actor._activation, producer
    runtime, durable = activation.runtime, activation.durable_side
    before = runtime.clock.time() - runtime.settings.retention
    await log.producers.look_up(runtime.store, actor.address, name, before)
    verdict = log.producers.judge(name, epoch, seq, before)
    if verdict.code not in ("ok", "duplicate"):
        return verdict
    if verdict.code == "duplicate":
        # behind the one that it repeats: that is durable, too
        await runtime.apply(activation, durable.commits.compose())
        return verdict
    _check_open(actor, log, items)
    effects, written = Effects(), Producer(epoch, seq, runtime.clock.time())
    effects.items[log.name] = items
    log.producers.write(name, written, effects.put, effects.drop)
    write = durable.commits.apart(effects)
    write.then.append(partial(log.producers.written, name, written))
    await runtime.apply(activation, write)
    return verdict


def _check_open(actor: "Actor", log: "ChannelLog", items: list[ChannelItem]) -> None:
    if items[0].kind == "item":
        closes = items[-1].kind == "closed"
        log.check_open(actor.address, closing=closes)


async def _settle(actor: "Actor", log: "ChannelLog") -> None:
    """Wait for the turns that have published there to end; until this call is over, no other one does."""
    turn = cast("Turn", current_turn.get())
    log.closing += 1
    assert turn.task is not None
    turn.task.add_done_callback(log.end_closing)
    while running := [other for other in actor._activation.running() if log in other.holds]:
        if any((other.address, other.request.message_id) in turn.request.chain for other in running):
            raise CallCycle(
                f"{actor.address}/{log.name} cannot be closed for a turn of the actor that waits for that and has "
                "published there: let it close the channel itself"
            )
        await asyncio.wait([other.task for other in running if other.task is not None])
