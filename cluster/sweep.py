"""Removing the directory entries of dead silos, so that etcd holds only what is active."""

import logging
from collections.abc import Iterable

from cluster.etcd import Compare, EtcdClient, KeyValue, Op
from cluster.keys import Keys

log = logging.getLogger("cluster.directory")

GROUP = 50


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
