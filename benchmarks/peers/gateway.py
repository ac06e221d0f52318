"""This project: the HTTP gateway of a silo whose store syncs to disk."""

import contextlib
import gc
import tempfile
from collections.abc import AsyncIterator, Mapping

from benchmarks.peer import Place, Served
from benchmarks.stream_load import StreamsPeer
from cluster import Silo
from cluster.gateway import GatewayOptions


class GatewayPeer(StreamsPeer):
    """A silo of its own, with an SQLite file of its own. Readers stay, and clients come, as they like."""

    @contextlib.asynccontextmanager
    async def serve(self, place: Place) -> AsyncIterator[Served]:
        """The gateway; all load comes from one address."""
        options = GatewayOptions(event_stream_lifetime=24 * 3600.0, client_rate=1e6, client_burst=1_000_000)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            store = f"sqlite:///{folder}/state.db"
            async with Silo([], listen="127.0.0.1:0", http="127.0.0.1:0", store=store, gateway=options) as silo:
                assert silo.http is not None
                yield Served(silo.http, _collect)


def _collect() -> Mapping[str, float]:
    """No counters; what is measured next is without garbage."""
    gc.collect()
    return {}


PEER = GatewayPeer()
