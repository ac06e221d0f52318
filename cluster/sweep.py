"""Removing the directory entries of dead silos, so that etcd holds only what is active."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from cluster.etcd import Compare, EtcdClient, EtcdError, KeyValue, Op
from cluster.keys import Keys

log = logging.getLogger("cluster.directory")

GROUP = 50
SWEEP_AFTER = 5.0


async def sweep_later(etcd: EtcdClient, keys: Keys, members: Callable[[], Iterable[str]]) -> None:
    """Clean up after dead silos, when those who need their actors at once have taken them over."""
    await asyncio.sleep(SWEEP_AFTER)
    try:
        await sweep(etcd, keys, members())
    except EtcdError as error:
        log.info("the entries of dead silos stay for now: %s", error)


async def sweep(etcd: EtcdClient, keys: Keys, members: Iterable[str]) -> int:
    """Delete every entry whose owner is not in ``members`` and has no record in etcd. Returns how many.

    An entry that is taken over meanwhile stays. Raises ``EtcdError``; what was deleted until then stays deleted.
    """
    alive = set(members)
    found = await etcd.get(keys.actors, prefix=True)
    orphans = [entry for entry in found.kvs if entry.value.decode() not in alive]
    swept = 0
    for start in range(0, len(orphans), GROUP):
        result = await etcd.txn([], [_delete(keys, entry) for entry in orphans[start : start + GROUP]])
        swept += sum(getattr(response, "succeeded", False) for response in result.responses)
    if swept:
        log.info("%d entries of dead silos were swept", swept)
    return swept


def _delete(keys: Keys, entry: KeyValue) -> Op:
    unchanged = Compare.mod_revision(entry.key, entry.mod_revision)
    return Op.txn([unchanged, Compare.absent(keys.silo(entry.value.decode()))], [Op.delete(entry.key)], [])
