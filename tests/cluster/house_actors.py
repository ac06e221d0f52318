"""The actors of these tests: an app for ``silo start``, and classes for silos in the test's own process."""

import asyncio
import os
import threading
import time
from collections import Counter as Counts
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from actors import Actor, handler
from actors.ref import ActorRef
from cluster.member import Member


def by_name(address: str, members: list[Member]) -> str:
    """Keys begin with the name of the silo that they want: ``counter-n2.x``. Without that silo any will do."""
    wanted = address.partition("-")[2].partition(".")[0]
    return min(members, key=lambda member: (member.name != wanted, member.name)).silo


@dataclass
class Count:
    value: int = 0
    friend: ActorRef | None = None


@dataclass
class Point:
    x: int
    y: int
    tags: list[str] = field(default_factory=list)


class Unannounced:
    """Travels as a pickle only."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unannounced) and other.name == self.name

    def __repr__(self) -> str:
        return f"Unannounced({self.name!r})"

    __hash__ = None  # type: ignore[assignment]


class OutOfInk(Exception):
    def __init__(self, colour: str) -> None:
        super().__init__(colour)
        self.colour = colour


def silo_of(actor: Actor) -> str:
    """The name of the silo that hosts the actor."""
    return actor._activation.runtime.directory.silo.partition(".")[0]


stalled: Counts[str] = Counts()
"""How often each message has run ``add_and_stall`` in this process."""


class Counter(Actor, placement=by_name):
    """Its state is durable with every turn."""

    state: Count

    async def receive(self, message: Any) -> Any:
        return message

    @handler
    async def add(self, amount: int = 1) -> int:
        self.state.value += amount
        return self.state.value

    @handler
    async def add_slowly(self, amount: int) -> int:
        """Changes the state, then waits for ``finish``."""
        self.state.value += amount
        self.slow = True
        await self.gate.wait()
        return self.state.value

    @handler
    async def add_after(self, amount: int, seconds: float) -> int:
        """Changes the state, then takes its time."""
        self.state.value += amount
        self.slow = True
        await asyncio.sleep(seconds)
        return self.state.value

    @handler
    async def add_and_stall(self, amount: int, seconds: float) -> int:
        """Changes the state, and blocks the whole event loop the first time that the message runs in this process."""
        self.state.value += amount
        stalled[self.context.message_id] += 1
        if stalled[self.context.message_id] == 1:
            time.sleep(seconds)  # noqa: ASYNC251  # the fault to survive
        return self.state.value

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.slow = False

    @handler(control=True)
    async def finish(self) -> None:
        self.gate.set()

    @handler(control=True)
    async def is_slow(self) -> bool:
        """Whether a slow turn has begun."""
        return self.slow

    @handler(readonly=True)
    async def value(self) -> int:
        return self.state.value

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)

    @handler(readonly=True)
    async def process(self) -> int:
        return os.getpid()

    @handler
    async def sleep(self) -> None:
        self.deactivate()

    @handler
    async def befriend(self, friend: Any) -> None:
        self.state.friend = friend

    @handler
    async def ask_friend(self) -> int:
        assert self.state.friend is not None
        answer: int = await self.state.friend.add(10)
        return answer


class Diary(Actor, persist="deactivation", placement=by_name):
    """Its state is stored when it goes."""

    state: Count

    @handler
    async def add(self, amount: int = 1) -> int:
        self.state.value += amount
        return self.state.value

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)


class Relay(Actor, placement=by_name):
    """Calls others, from whichever silo it lives on."""

    @handler
    async def call(self, ref: Any, name: str, args: list[Any]) -> Any:
        return await getattr(ref, name)(*args)

    @handler
    async def call_back(self, through: Any) -> Any:
        """Ask another relay to call this one, whose turn is waiting for that."""
        return await through.call(self.own_ref, "ping", [])

    @handler
    async def ping(self) -> str:
        return "pong"

    @handler
    async def collect(self, ref: Any, name: str, args: list[Any]) -> list[Any]:
        return [item async for item in getattr(ref, name).stream(*args)]

    @handler
    async def own(self) -> ActorRef:
        return self.own_ref

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)


class Valve(Actor, placement=by_name, max_queue=3, persist="never"):
    """Busy until it is opened; refuses more than three waiting messages."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[Any] = []

    async def receive(self, message: Any) -> Any:
        self.seen.append(message)
        await self.gate.wait()
        return message

    @handler(control=True)
    async def open(self) -> None:
        self.gate.set()

    @handler(control=True)
    async def noted(self) -> list[Any]:
        return self.seen


class Fountain(Actor, placement=by_name, persist="never"):
    """Streams, and counts what it made."""

    def __init__(self) -> None:
        self.made = 0
        self.ended = False
        self.gate = asyncio.Event()

    @handler
    async def drops(self, count: int, size: int = 0) -> AsyncIterator[Any]:
        self.made, self.ended = 0, False
        try:
            for number in range(count):
                self.made += 1
                yield bytes(size) if size else number
        finally:
            self.ended = True

    @handler
    async def drops_then_wait(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        await self.gate.wait()

    @handler
    async def break_after(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise OutOfInk("blue")

    @handler(control=True)
    async def progress(self) -> tuple[int, bool]:
        return self.made, self.ended


class Faulty(Actor, placement=by_name):
    """Fails in every way it can."""

    state: Count

    async def on_activate(self) -> None:
        if ".stillborn" in self.key:
            raise OutOfInk("red")

    @handler
    async def fail(self) -> None:
        self.state.value += 1
        raise OutOfInk("green")

    @handler
    async def fail_with_a_cause(self) -> None:
        try:
            vars(self)["nothing"]
        except KeyError as error:
            raise ValueError("no ink at all") from error

    @handler
    async def unsendable(self) -> object:
        self.state.value += 1
        return threading.Lock()

    @handler
    async def add(self) -> int:
        self.state.value += 1
        return self.state.value


class Echo(Actor, placement=by_name, persist="never"):
    """Gives back what it got."""

    @handler
    async def echo(self, value: Any) -> Any:
        return value

    @handler
    async def move(self, point: Point) -> Point:
        return Point(point.x + 1, point.y, [*point.tags, type(point).__name__])

    @handler
    async def size(self, data: bytes) -> int:
        return len(data)

    @handler
    async def make(self, size: int) -> bytes:
        return bytes(size)


class Ledger(Actor, placement=by_name, idle_timeout=0.1):
    """Notes what it is sent, in order, and goes to sleep at every fifth message."""

    state: list[int]

    async def receive(self, message: int) -> None:
        self.state.append(message)
        if message % 5 == 0:
            self.deactivate()

    @handler(readonly=True)
    async def noted(self) -> list[int]:
        return self.state

    @handler(readonly=True)
    async def where(self) -> str:
        return silo_of(self)


ACTORS: list[type[Actor]] = [Counter, Diary, Relay, Valve, Fountain, Faulty, Echo, Ledger]
