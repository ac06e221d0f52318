"""What a contestant of the benchmarks has to offer, and what is said to the processes that host it."""

import contextlib
import contextvars
import importlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.load import Call, Window

ACTORS = 100
PAYLOAD = b"x" * 100


class Place(msgspec.Struct, kw_only=True):
    """Where a process of a contestant finds the others."""

    endpoints: list[str] = []
    etcd: str | None = None
    store: str = "memory:"
    name: str = "n1"


class Drive(msgspec.Struct, tag=True):
    """Asks a calling process for one run of the closed loop. Answered by a Window."""

    work: str
    callers: int
    seconds: float


class Count(msgspec.Struct, tag=True):
    """Asks a serving process for its counters. Answered by a dict of numbers by name."""


Command = Drive | Count


class Ready(msgspec.Struct):
    """A process's first words. ``endpoint`` is where it serves, if it does."""

    endpoint: str = ""
    pid: int = 0
    """The process that serves, if that is another one."""


class Answer(msgspec.Struct):
    """What a process says, first when it is ready and then to each command."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    """Why the command could not be carried out."""


@dataclass(frozen=True)
class Served:
    """A server that is up."""

    endpoint: str
    count: Callable[[], Mapping[str, float]] = dict
    pid: int = 0
    """The process that serves, if that is a child of this one."""


Run = Callable[[int, float], Awaitable[Window]]
"""Another load than a closed loop of calls. Gets the number of callers and for how many seconds."""


@dataclass(frozen=True)
class Caller:
    """The means to put load on a server: calls by the name of the work, and the contexts to make them in."""

    works: Mapping[str, Call]
    contexts: Sequence[contextvars.Context] = field(default_factory=list)
    runs: Mapping[str, Run] = field(default_factory=dict)
    """Works that are more than calls."""


class Peer:
    """A contestant. A subclass is one system, or one way of using it."""

    def serve(self, place: Place) -> "contextlib.AbstractAsyncContextManager[Served]":
        """Host the actors in this process."""
        raise NotImplementedError

    def connect(self, place: Place) -> "contextlib.AbstractAsyncContextManager[Caller]":
        """Reach the actors from this process."""
        raise NotImplementedError


def load_peer(module: str) -> Peer:
    """The contestant in ``benchmarks/peers/<module>.py``."""
    found: Any = importlib.import_module(f"benchmarks.peers.{module}")
    peer = found.PEER
    assert isinstance(peer, Peer)
    return peer


def installed(package: str) -> bool:
    """Whether the package can be imported here; nothing is imported to find out."""
    return not package or importlib.util.find_spec(package) is not None


@contextlib.asynccontextmanager
async def nothing_to_serve() -> AsyncIterator[Served]:
    """For a system whose calling process starts everything itself."""
    yield Served("")
