"""How much a runtime has to do, in the terms of its limits."""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from actors.runtime import Runtime


class Load(msgspec.Struct, frozen=True):
    """What is under way and waits now; see ``Settings`` for the limits."""

    calls: int
    """Asks and sends of others that are not answered yet."""
    streams: int
    """Streams of others."""
    call_bytes: int
    """What these take, about."""
    own_calls: int
    """Asks and sends of this process."""
    own_streams: int
    """Streams of this process."""
    waiting_bytes: int
    """What waits in mailboxes, about."""
    held_bytes: int
    """What waits for owners to be found, about."""
    refused: int
    """How many calls there was no room for, since the start; without those that a mailbox had no room for."""


def load_of(runtime: "Runtime") -> Load:
    """The load of a runtime."""
    others, own = runtime.room, runtime.outbound.room
    return Load(
        calls=others.calls.taken,
        streams=others.streams.taken,
        call_bytes=others.bytes.taken,
        own_calls=own.calls.taken,
        own_streams=own.streams.taken,
        waiting_bytes=runtime.waiting.taken,
        held_bytes=runtime.held_bytes,
        refused=others.refused + own.refused,
    )
