"""What goes wrong, when and where: drawn from a seed, so that a run can be had again."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.chaos.detour import has_detours
from tests.chaos.fleet import Fleet, SiloHost, StoreKind
from tests.cluster.etcd.proxy import Proxy

QUIET = 4.0
"""Seconds at the begin of a run in which nothing goes wrong."""


class Fault(NamedTuple):
    """One that begins ``at`` some second and ``lasts`` some. ``size``, from 0 to 1, means something to its kind."""

    at: float
    kind: str
    target: int
    other: int
    lasts: float
    size: float

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.kind:<9} {KINDS[self.kind].about(self)}, for {self.lasts:.1f} s"


Undo = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what it takes, for how long, and how it is inflicted."""

    longest: float
    inflict: Callable[[Fleet, Fault], Awaitable[Undo]]
    about: Callable[[Fault], str]
    recovery: float = 0.0
    """Seconds afterwards in which its target is left alone."""
    on: str = "silo"
    needs: str = ""
    """wires, detours, disk or postgres"""


def _silo(fleet: Fleet, fault: Fault) -> SiloHost:
    return fleet.silos[fault.target]


async def _kill(fleet: Fleet, fault: Fault) -> Undo:
    silo = _silo(fleet, fault)
    await silo.end(signal.SIGKILL)
    return _later(silo.start)


async def _roll(fleet: Fleet, fault: Fault) -> Undo:
    silo = _silo(fleet, fault)
    await silo.end(signal.SIGTERM)
    return _later(silo.start)


async def _skew(fleet: Fleet, fault: Fault) -> Undo:
    silo = _silo(fleet, fault)
    silo.skew, silo.drift = round(fault.size * 6 - 3, 1), 0.0
    return await _kill(fleet, fault) if fault.other % 2 else await _roll(fleet, fault)


async def _drift(fleet: Fleet, fault: Fault) -> Undo:
    silo = _silo(fleet, fault)
    silo.skew, silo.drift = 0.0, round(fault.size * 0.4 - 0.2, 2)
    return await _kill(fleet, fault) if fault.other % 2 else await _roll(fleet, fault)


async def _freeze(fleet: Fleet, fault: Fault) -> Undo:
    silo = _silo(fleet, fault)
    silo.freeze()
    return _later(silo.thaw)


async def _partition(fleet: Fleet, fault: Fault) -> Undo:
    """Between two silos, in both directions or in one."""
    wires = fleet.wires
    assert wires is not None
    one, two = _silo(fleet, fault).name, fleet.silos[fault.other].name
    ways = [(one, two)] if fault.size < 0.4 else [(one, two), (two, one)]
    for source, target in ways:
        await wires.drop(source, target)

    async def undo() -> None:
        for source, target in ways:
            await wires.undrop(source, target)

    return undo


async def _unplug(fleet: Fleet, fault: Fault) -> Undo:
    """A silo loses everybody: the others, the clients, etcd and the store."""
    silo = _silo(fleet, fault)
    if fleet.wires is not None:
        wires = fleet.wires
        await wires.unplug(silo.name)
        return lambda: wires.plug(silo.name)
    assert silo.front is not None
    return _frozen([silo.front, *silo.ways_out])


async def _cutoff(fleet: Fleet, fault: Fault) -> Undo:
    """A silo loses etcd alone."""
    return _frozen(_silo(fleet, fault).etcd)


async def _lossy(fleet: Fleet, fault: Fault) -> Undo:
    wires, name = fleet.wires, _silo(fleet, fault).name
    assert wires is not None
    await wires.lose(name, 5 + int(fault.size * 30))
    return lambda: wires.lose(name, 0)


async def _lag(fleet: Fleet, fault: Fault) -> Undo:
    """What a silo says to the others, or to one of them, takes its time."""
    silo = _silo(fleet, fault)
    if fleet.wires is None:
        assert silo.front is not None
        return _delayed([silo.front], fault)
    wires = fleet.wires
    others = [fleet.silos[fault.other].name] if fault.size < 0.3 else [it.name for it in fleet.silos if it is not silo]
    await wires.delay(silo.name, others, _delay(fault))
    return lambda: wires.undelay(silo.name, others)


async def _slow(fleet: Fleet, fault: Fault) -> Undo:
    """The ways of a silo to etcd and the store take their time."""
    return _delayed(_silo(fleet, fault).ways_out, fault)


def _delayed(proxies: list[Proxy], fault: Fault) -> Undo:
    for proxy in proxies:
        proxy.delay = _delay(fault)

    def undo() -> None:
        for proxy in proxies:
            proxy.delay = 0.0

    return _later(undo)


async def _etcd_kill(fleet: Fleet, fault: Fault) -> Undo:
    members = [fleet.members[number] for number in _members(fault)]
    await asyncio.gather(*(member.kill() for member in members))

    async def undo() -> None:
        for member in members:
            member.spawn()

    return undo


async def _etcd_freeze(fleet: Fleet, fault: Fault) -> Undo:
    members = [fleet.members[number] for number in _members(fault)]
    for member in members:
        member.pause()

    def undo() -> None:
        for member in members:
            member.resume()

    return _later(undo)


async def _etcd_partition(fleet: Fleet, fault: Fault) -> Undo:
    """Between members: their clients reach all of them."""
    wires = fleet.wires
    assert wires is not None
    leads = await fleet.leader() if fault.size < 0.6 else None
    one = fault.target % 3 if leads is None else leads
    others = [(one + 1) % 3, (one + 2) % 3] if fault.size < 0.6 else [(one + 1) % 3]
    ways = [(one, other) for other in others]
    if fault.size < 0.4 or fault.size > 0.8:
        ways += [(other, one) for other in others]
    names = [(fleet.members[source].name, fleet.members[target].name) for source, target in ways]
    for source, target in names:
        await wires.drop(source, target)

    async def undo() -> None:
        for source, target in names:
            await wires.undrop(source, target)

    return undo


async def _disk_full(fleet: Fleet, _: Fault) -> Undo:
    disk = fleet.disk
    assert disk is not None
    await asyncio.to_thread(disk.fill)
    return _later(disk.empty)


async def _store_kill(fleet: Fleet, fault: Fault) -> Undo:
    postgres = fleet.postgres
    assert postgres is not None
    postgres.kill()

    async def undo() -> None:
        postgres.launch()
        await asyncio.to_thread(postgres.wait_until_ready)

    return undo


async def _store_freeze(fleet: Fleet, fault: Fault) -> Undo:
    postgres = fleet.postgres
    assert postgres is not None
    postgres.freeze()
    return _later(postgres.thaw)


def _members(fault: Fault) -> list[int]:
    """Which members of etcd: one, or sometimes two, and with them the quorum."""
    return [fault.target % 3] if fault.size < 0.7 else [fault.target % 3, (fault.target + 1) % 3]


def _frozen(proxies: list[Proxy]) -> Undo:
    for proxy in proxies:
        proxy.freeze()

    def undo() -> None:
        for proxy in proxies:
            proxy.resume()

    return _later(undo)


def _later(undo: Callable[[], None]) -> Undo:
    async def undone() -> None:
        undo()

    return undone


def _name(fault: Fault) -> str:
    return f"n{fault.target + 1}"


def _named_members(fault: Fault) -> str:
    return " and ".join(f"m{number}" for number in _members(fault))


def _delay(fault: Fault) -> float:
    return 0.02 + fault.size * 0.3


def _lagging(fault: Fault) -> str:
    to = f"n{fault.other + 1}" if fault.size < 0.3 else "the others"
    return f"{_name(fault)} to {to} {_delay(fault) * 1000:.0f} ms"


def _parted(fault: Fault) -> str:
    arrow = "<->" if fault.size < 0.4 or fault.size > 0.8 else "->"
    one, other = fault.target % 3, (fault.target + 1) % 3
    return f"leader {arrow} others" if fault.size < 0.6 else f"m{one} {arrow} m{other}"


def _ways(fault: Fault) -> str:
    arrow = "->" if fault.size < 0.4 else "<->"
    return f"n{fault.target + 1} {arrow} n{fault.other + 1}"


KINDS: dict[str, Kind] = {
    "kill": Kind(3.0, _kill, _name, recovery=4.0),
    "freeze": Kind(8.0, _freeze, _name, recovery=1.0),
    "roll": Kind(1.0, _roll, _name, recovery=4.0),
    "skew": Kind(1.0, _skew, lambda f: f"{_name(f)}'s clock {f.size * 6 - 3:+.1f} s", recovery=4.0),
    "drift": Kind(1.0, _drift, lambda f: f"{_name(f)}'s clock {f.size * 40 - 20:+.0f} %", recovery=4.0),
    "partition": Kind(9.0, _partition, _ways, needs="wires"),
    "unplug": Kind(9.0, _unplug, _name, recovery=1.0),
    "cutoff": Kind(8.0, _cutoff, lambda f: f"{_name(f)} from etcd", recovery=1.0),
    "loss": Kind(10.0, _lossy, lambda f: f"{_name(f)} {5 + int(f.size * 30)} %", needs="wires"),
    "slow": Kind(10.0, _slow, lambda f: f"{_name(f)} {_delay(f) * 1000:.0f} ms"),
    "lag": Kind(10.0, _lag, _lagging, needs="detours"),
    "etcd": Kind(6.0, _etcd_kill, _named_members, recovery=3.0, on="etcd"),
    "etcdstop": Kind(6.0, _etcd_freeze, _named_members, recovery=2.0, on="etcd"),
    "etcdpart": Kind(8.0, _etcd_partition, _parted, recovery=2.0, on="etcd", needs="wires"),
    "full": Kind(10.0, _disk_full, lambda _: "no room on the store's disk", recovery=3.0, on="store", needs="disk"),
    "store": Kind(4.0, _store_kill, lambda _: "killed", recovery=4.0, on="store", needs="postgres"),
    "storestop": Kind(4.0, _store_freeze, lambda _: "frozen", recovery=3.0, on="store", needs="postgres"),
}


def usable(kinds: list[str], *, wires: bool, store: StoreKind) -> list[str]:
    """The kinds that can be had there, of those asked for (all if none are)."""
    there = {
        "": True,
        "wires": wires,
        "detours": has_detours() or not wires,  # a proxy does it without wires
        "disk": wires and store == "sqlite",
        "postgres": store == "postgres",
    }
    return [kind for kind in KINDS if there[KINDS[kind].needs] and (not kinds or kind in kinds)]


def draw(seed: int, *, seconds: float, silos: int, kinds: list[str]) -> list[Fault]:
    """The faults of a run, in order. At most two at a time, of different targets."""
    rng = random.Random(f"{seed} faults")
    busy: dict[str, float] = {}  # by target: until when
    found: list[Fault] = []
    at = QUIET
    while kinds:
        at += rng.uniform(1.0, 6.0)
        kind = rng.choice(kinds)
        target, other = rng.sample(range(max(silos, 2)), 2)
        lasts = rng.uniform(0.2, 1.0) * KINDS[kind].longest
        size = rng.random()
        if at + lasts > seconds:
            return found
        where = f"n{target}" if KINDS[kind].on == "silo" else KINDS[kind].on
        if busy.get(where, 0.0) > at or sum(until > at for until in busy.values()) > 1:
            continue
        busy[where] = at + lasts + KINDS[kind].recovery
        found.append(Fault(round(at, 1), kind, target, other, round(lasts, 1), round(size, 3)))
    return found


class Inflictor:
    """Inflicts faults at their times, and undoes all of them, however it ends."""

    def __init__(self, fleet: Fleet, faults: list[Fault], tell: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._faults = faults
        self._tell = tell

    async def run(self, begin: float) -> None:
        """Return when all are over. ``begin``: when second 0 was, by the loop's clock."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                await asyncio.sleep(begin + fault.at - loop.time())
                self._tell(str(fault))
                group.create_task(self._inflict(fault))

    async def _inflict(self, fault: Fault) -> None:
        undo = await KINDS[fault.kind].inflict(self._fleet, fault)
        try:
            await asyncio.sleep(fault.lasts)
        finally:
            await undo()
