"""Which types of actors there are, for those who ask about one that may be away for a moment."""

from actors.address import listed
from actors.errors import ClusterUnavailable, UnknownActorType
from actors.runtime import Runtime
from cluster.gateway.streams.names import BUILTIN_TYPES


class HostedTypes:
    """The types that silos host, and those that some did: what was there a moment ago comes back."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def has(self, runtime: Runtime, address: str) -> bool:
        """Whether a live silo hosts the actor's type; the gateway's own are nobody's.

        Raises ``ClusterUnavailable`` if one did, and none does now.
        """
        kind = address.partition("-")[0]
        if kind in BUILTIN_TYPES:
            return False
        if kind in runtime.types:
            return True
        self._seen.update(found := runtime.directory.types())
        if kind in self._seen and kind not in found:
            raise ClusterUnavailable(f"{address}: the silos that host the type {kind!r} are away; try again")
        return kind in found

    def check(self, runtime: Runtime, address: str) -> None:
        """Raise ``UnknownActorType`` unless ``has``."""
        if not self.has(runtime, address):
            kind, known = address.partition("-")[0], listed(runtime.directory.types())
            raise UnknownActorType(f"{address}: no silo hosts the type {kind!r} (known types: {known})")
