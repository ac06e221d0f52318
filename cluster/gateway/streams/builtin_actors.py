"""The actors that every silo hosts for its gateway."""

from collections.abc import Iterable
from typing import Final

from actors import Actor
from actors.address import OWN_TYPES
from cluster.gateway.actors.attendance import ChannelPresence
from cluster.gateway.chat.run_index import ChatRun
from cluster.gateway.streams.index import StreamIndex
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.subscription import Subscription
from cluster.gateway.streams.webhook import WebhookCourier
from cluster.gateway.streams.webhook_keys import WebhookKeys

BUILTIN: Final[tuple[type[Actor], ...]] = (
    Stream, StreamIndex, Subscription, WebhookCourier, WebhookKeys, ChatRun, ChannelPresence,
)  # fmt: skip

OWN_TYPES.update(actor._type for actor in BUILTIN)


def check_types(actors: Iterable[type[Actor]]) -> None:
    """Raise ``ValueError`` for a class whose type is one of the gateway's own."""
    taken = {actor._type for actor in BUILTIN}
    for actor in actors:
        if actor._type in taken and actor not in BUILTIN:
            others = ", ".join(sorted(taken - {actor._type}))
            raise ValueError(
                f"class {actor.__name__}: the actor type {actor._type!r} is the gateway's own (like {others}); choose "
                f'another: class {actor.__name__}(Actor, type="...")'
            )
