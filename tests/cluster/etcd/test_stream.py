import asyncio
import gc
from typing import Any

import pytest

from cluster.etcd import EtcdServer
from cluster.etcd.connection import Connection
from cluster.etcd.endpoint import Endpoint
from cluster.etcd.method import WATCH


async def test_a_stream_that_breaks_when_nobody_reads_it_any_more_breaks_silently(server: EtcdServer) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    connection = Connection([Endpoint(server.endpoint, tls=None)], user=None, password=None, timeout=10)
    stream = await connection.open(WATCH, within=10)
    with pytest.raises(TimeoutError):
        await stream.receive(within=0.01)
    reading = stream._reading
    assert reading is not None
    await server.stop()
    await asyncio.wait({reading}, timeout=20)
    assert reading.done(), "it has not noticed that its etcd is gone"
    await connection.close()
    del stream, reading
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
