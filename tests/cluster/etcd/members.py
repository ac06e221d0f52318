"""An etcd of three members, each a process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from cluster.etcd import EtcdClient, EtcdServer
from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.method import STATUS
from cluster.etcd.server import free_ports


class Place(NamedTuple):
    """Where a member runs: at which address, and what runs its command there."""

    host: str = "127.0.0.1"
    inside: tuple[str, ...] = ()


@asynccontextmanager
async def three_members(folder: Path, places: Sequence[Place] = (Place(),) * 3) -> AsyncIterator[list[EtcdServer]]:
    """Members with a leader, who elect another in half a second. What is left of them is killed."""
    ports = free_ports(3)
    names = [f"m{number}" for number in range(3)]
    cluster = {name: f"http://{place.host}:{port}" for name, place, port in zip(names, places, ports, strict=True)}
    members = [
        EtcdServer(
            folder / name,
            name=name,
            peer_port=port,
            cluster=cluster,
            host=place.host,
            inside=place.inside,
            unsafe_no_fsync=True,
            args=["--heartbeat-interval=50", "--election-timeout=500"],
        )
        for name, place, port in zip(names, places, ports, strict=True)
    ]
    async with AsyncExitStack() as stack:
        for member in members:
            stack.push_async_callback(member.close)
            member.spawn()
        await asyncio.gather(*(member.wait_ready() for member in members))
        try:
            yield members
        finally:
            await asyncio.gather(*(member.kill() for member in members))


async def leader_of(members: list[EtcdServer]) -> EtcdServer:
    """The member that leads."""
    for member in members:
        async with EtcdClient([member.endpoint]) as client:
            status = await client._connection.read(STATUS, pb.StatusRequest())
            if status.leader == status.header.member_id:
                return member
    raise AssertionError("no member says that it leads")


async def term_of(members: list[EtcdServer]) -> int:
    """How often they have elected a leader, roughly: each election raises it."""
    async with EtcdClient([member.endpoint for member in members]) as client:
        term: int = (await client._connection.read(STATUS, pb.StatusRequest())).header.raft_term
        return term
