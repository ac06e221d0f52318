"""The wait for an etcd that is not there yet when a silo starts."""

import asyncio
import logging

from cluster.etcd import EtcdClient, EtcdUnavailable, Tls

log = logging.getLogger("cluster.silo")

_FIRST_PATIENCE = 2.0


async def reach_etcd(
    endpoints: list[str], *, limit: float, tls: Tls | None, user: str | None, password: str | None
) -> EtcdClient:
    """Return a client when etcd answers; say that it does not. Each attempt has more time: it may be slow, not away.

    Raises ``EtcdUnavailable`` after ``limit`` seconds.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    patience = _FIRST_PATIENCE
    while True:
        timeout = min(patience, max(started + limit - loop.time(), 0.1))
        probe = EtcdClient(endpoints, timeout=timeout, tls=tls, user=user, password=password)
        patience *= 2
        try:
            await probe.connect()
            break
        except EtcdUnavailable as error:
            waited = loop.time() - started
            log.warning("waiting for etcd, %.0f of %.0f s: %s", waited, limit, error)
            if waited >= limit:
                raise
        finally:
            await probe.close()
        await asyncio.sleep(min(0.5, limit / 10))
    client = EtcdClient(endpoints, tls=tls, user=user, password=password)
    try:
        await client.connect()
    except BaseException:
        await client.close()
        raise
    return client
