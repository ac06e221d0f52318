"""The actor that knows who reads a channel, on all silos. Nothing of it is stored: it hears everything anew."""

import secrets
import time
from typing import Final

import msgspec

from actors import Actor, handler
from cluster.gateway.streams.names import PRESENCE, stream_key

MOST: Final = 1000
"""Readers of one channel that are told of; there may be more."""

_SETTLING: Final = 10.0  # seconds in which all gateways that live have told a new activation whom they have


class Reader(msgspec.Struct, frozen=True):
    """Somebody who reads a channel and wants that to be known. ``subject`` is that of the token, the rest is said."""

    id: str
    name: str = ""
    data: object = None
    subject: str = ""


class Attendance(msgspec.Struct, frozen=True):
    """Who is there. ``readers`` None: as in the version that was known.

    ``heard``: the gateways that have told whom they have; None once all must have.
    """

    version: int
    readers: list[Reader] | None
    heard: list[str] | None = None


class ChannelPresence(Actor, type=PRESENCE, persist="never", idle_timeout=30):
    """Hears from each gateway whom it has, again and again. One that is silent for longer than its lease has nobody."""

    def __init__(self) -> None:
        self._gateways: dict[str, tuple[float, list[Reader]]] = {}
        self._born = time.monotonic()
        self._version = secrets.randbits(52)  # another activation's versions are others

    @handler
    async def attend(self, gateway: str, readers: list[Reader], lease: float, known: int) -> Attendance:
        """A gateway tells whom it has, for ``lease`` seconds, and hears who is there unless it knows that."""
        now = time.monotonic()
        gone = [name for name, (until, _) in self._gateways.items() if until < now]
        for name in gone:
            del self._gateways[name]
        _, before = self._gateways.pop(gateway, (0.0, []))
        self._gateways[gateway] = now + lease, readers
        if gone or before != readers:
            self._version += 1
        if known == self._version:
            return Attendance(known, None)
        everybody = [reader for _, some in self._gateways.values() for reader in some]
        heard = list(self._gateways) if now - self._born < _SETTLING else None
        return Attendance(self._version, everybody[:MOST], heard)


def presence_key(address: str, channel: str) -> str:
    """The key of the actor that knows who reads a channel."""
    return stream_key(f"{address}/{channel}")
