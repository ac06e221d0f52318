"""What goes wrong, when and for how long: drawn from the seed before the run, so that it can be read."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation.directory import ETCD

if TYPE_CHECKING:
    from tests.simulation.world import World


class Fault(NamedTuple):
    start: float  # seconds into the phase
    kind: str
    target: int  # index of a silo; -1 is the one that has the clients' favourite actor then
    other: int  # of another one, where two are concerned
    length: float

    def __str__(self) -> str:
        return f"{self.start:6.2f} s  {self.kind:<14} silo {self.target} (other {self.other})  for {self.length:.2f} s"


KINDS = (
    "crash", "freeze", "short_freeze", "cut_peer", "cut_one_way", "cut_etcd", "cut_client", "etcd_slow", "etcd_away",
    "watch_lag", "compact", "store_slow", "store_fails", "reset", "refuse", "drain", "fragile", "deaf_to_etcd",
    "cut_off",
)  # fmt: skip


LONG = ("freeze", "cut_etcd", "deaf_to_etcd", "cut_off")  # interesting where they outlast the lease


def draw(seed: random.Random, *, silos: int, length: float, only: Sequence[str] = ()) -> list[Fault]:
    """Each seed uses only some kinds, or those in ``only``: what all kinds together would hide shows."""
    kinds = list(only) or seed.sample(KINDS, seed.randint(1, 6))
    faults = []
    for _ in range(seed.randint(1, 7)):
        kind = seed.choice(kinds)
        target = seed.randrange(silos)
        other = seed.choice([index for index in range(silos) if index != target])
        if kind in LONG and seed.random() < 0.5:
            target = -1
        lengths = (0.5, 3.0, 5.0, 6.0) if kind in LONG else (0.05, 0.5, 1.5, 3.0, 5.0)
        lasts = seed.choice(lengths) * (0.5 + seed.random())
        faults.append(Fault(seed.random() * length, kind, target, other, lasts))
    return sorted(faults)


async def inflict(world: "World", fault: Fault) -> None:
    """Let it happen and be over. Runs outside of every process."""
    await world.sleep(fault.start)
    if fault.target < 0:
        fault = fault._replace(target=world.favoured(fault.other))
    world.history.note(f"FAULT {fault.kind} silo {fault.target} (other {fault.other}) for {fault.length:.2f} s")
    await _INFLICT[fault.kind](world, fault)
    world.history.note(f"fault {fault.kind} of silo {fault.target} is over")


async def _crash(world: "World", fault: Fault) -> None:
    node = world.nodes[fault.target]
    node.crash()
    await world.sleep(min(fault.length, 2.0))
    await node.restart()


async def _drain(world: "World", fault: Fault) -> None:
    node = world.nodes[fault.target]
    await node.drain()
    await world.sleep(fault.length / 4)
    await node.restart()


async def _freeze(world: "World", fault: Fault) -> None:
    length = fault.length if fault.kind == "freeze" else fault.length / 10
    process = world.nodes[fault.target].process
    if process.dead or process.frozen:
        return
    process.frozen = True
    world.network.freeze(process)
    await world.sleep(length)
    world.frozen_for[process] = world.frozen_for.get(process, 0.0) + length
    world.loop.thaw(process)


async def _cut(world: "World", fault: Fault) -> None:
    silo, other = world.nodes[fault.target].host, world.nodes[fault.other].host
    paths = {
        "cut_peer": [(silo, other), (other, silo)],
        "cut_one_way": [(silo, other)],
        "cut_etcd": [(silo, ETCD), (ETCD, silo)],
        "deaf_to_etcd": [(ETCD, silo)],
        "cut_client": [(silo, world.client_host(0)), (world.client_host(0), silo)],
    }[fault.kind]
    for path in paths:
        world.network.block(*path)
    await world.sleep(fault.length)
    for path in paths:
        world.network.unblock(*path)


async def _cut_off(world: "World", fault: Fault) -> None:
    """The host without a network, or alone with the clients. What it sends to the store arrives when that is back."""
    host = world.nodes[fault.target].host
    others = [ETCD, *(node.host for node in world.nodes if node.host != host)]
    if int(fault.length * 1000) % 3 == 0:
        others += [client.host for client in world.clients]
    world.store.cut_until[host] = world.loop.time() + fault.length
    for other in others:
        world.network.block(host, other)
        world.network.block(other, host)
    await world.sleep(fault.length)
    for other in others:
        world.network.unblock(host, other)
        world.network.unblock(other, host)


async def _reset(world: "World", fault: Fault) -> None:
    host = world.nodes[fault.target].host
    for connection in [c for c in world.network.connections if host in c.hosts]:
        connection.break_off()


async def _refuse(world: "World", fault: Fault) -> None:
    host = world.nodes[fault.target].host
    await _reset(world, fault)
    world.network.refusing.add(host)
    await world.sleep(fault.length)
    world.network.refusing.discard(host)


async def _etcd_slow(world: "World", fault: Fault) -> None:
    world.path.slow += 1.0
    await world.sleep(fault.length)
    world.path.slow -= 1.0


async def _etcd_away(world: "World", fault: Fault) -> None:
    if world.etcd.away:
        return
    world.etcd.away = True
    await world.sleep(fault.length)
    world.etcd.come_back()


async def _watch_lag(world: "World", fault: Fault) -> None:
    host = world.nodes[fault.target].host
    world.path.lag[host] = 3.0
    await world.sleep(fault.length * 2)
    world.path.lag.pop(host, None)


async def _compact(world: "World", fault: Fault) -> None:
    world.etcd.compact()


async def _store_slow(world: "World", fault: Fault) -> None:
    slow = world.stage.random.choice((0.5, 3.0))
    world.store.slow += slow
    await world.sleep(fault.length)
    world.store.slow = max(0.0, world.store.slow - slow)


async def _store_fails(world: "World", fault: Fault) -> None:
    world.store.failing += 0.4
    await world.sleep(fault.length)
    world.store.failing = max(0.0, world.store.failing - 0.4)


async def _fragile(world: "World", fault: Fault) -> None:
    world.stage.fragile += 0.5
    await world.sleep(fault.length)
    world.stage.fragile = max(0.0, world.stage.fragile - 0.5)


_INFLICT = {
    "crash": _crash, "drain": _drain, "freeze": _freeze, "short_freeze": _freeze, "cut_peer": _cut,
    "cut_one_way": _cut, "cut_etcd": _cut, "deaf_to_etcd": _cut, "cut_client": _cut, "reset": _reset,
    "refuse": _refuse, "etcd_slow": _etcd_slow, "etcd_away": _etcd_away, "watch_lag": _watch_lag,
    "cut_off": _cut_off, "compact": _compact, "store_slow": _store_slow, "store_fails": _store_fails,
    "fragile": _fragile,
}  # fmt: skip
