"""What is in a cluster: its silos and its active actors, read from etcd."""

from cluster.etcd import EtcdClient
from cluster.keys import Keys
from cluster.member import Member, readable


async def list_members(etcd: EtcdClient, keys: Keys) -> list[Member]:
    """The live silos. Raises ``EtcdError``."""
    found = await etcd.get(keys.silos, prefix=True)
    return list(readable({kv.key: kv.value for kv in found.kvs}))


async def list_actors(etcd: EtcdClient, keys: Keys, type_name: str) -> dict[str, str]:
    """The name of the silo on which each active address lives; of one type, or of all if it is "".

    Entries of silos that died and whose actors nobody has asked for since are left out. Raises ``EtcdError``.
    """
    names = {member.silo: member.name for member in await list_members(etcd, keys)}
    found = await etcd.get(f"{keys.actors}{type_name}/" if type_name else keys.actors, prefix=True)
    owners = ((keys.address(kv.key), kv.value.decode()) for kv in found.kvs)
    return {address: names[owner] for address, owner in owners if owner in names}
