"""A silo whose actors show what may be called from outside, and how values travel."""

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors import Actor, ActorRef, handler
from cluster import Silo
from cluster.etcd import EtcdServer
from cluster.gateway import GatewayOptions
from tests.cluster.house import House
from tests.gateway.http_client import Gateway


@dataclass
class Notes:
    """What a ``Desk`` keeps."""

    words: list[str] = field(default_factory=list)


@dataclass
class Order:
    """An argument with types that JSON has no word for."""

    id: uuid.UUID
    due: dt.datetime
    amounts: dict[int, float]
    data: bytes = b""


class Desk(Actor, public=True):
    """Has something of everything."""

    state: Notes

    async def receive(self, message: Any) -> Any:
        self.state.words.append(str(message))
        return message

    @handler(public=True)
    async def say(self, word: str, times: int = 1) -> int:
        for _ in range(times):
            await self.publish(word)
        self.state.words.append(word)
        return len(self.state.words)

    @handler(public=True)
    async def order(self, order: Order) -> Order:
        assert isinstance(order.id, uuid.UUID)
        return order

    @handler(public=True)
    async def point_at(self, other: ActorRef) -> ActorRef:
        assert isinstance(other, ActorRef)
        return other

    @handler(public=True)
    async def make(self, what: str) -> Any:
        return {
            "nan": float("nan"), "big": 2**63, "bigger": 2**70, "bytes": b"hi", "set": {1}, "keys": {1: "one"},
            "time": dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "object": object(), "surrogate": "\ud800",
        }[what]  # fmt: skip

    @handler(public=True)
    async def count(self, upto: int, fail: bool = False) -> AsyncIterator[int]:
        for number in range(upto):
            yield number
        if fail:
            raise LookupError("no more")

    @handler(public=True)
    async def words(self) -> list[str]:
        return self.state.words

    @handler(public=True)
    async def wait(self, name: str) -> str:
        await gate(name).wait()
        self.state.words.append(name)
        return name

    @handler
    async def secret(self) -> str:
        return "secret"


class Closed(Actor):
    """Its receive is not public, one of its handlers is."""

    async def receive(self, message: Any) -> Any:
        return message

    @handler(public=True)
    async def hello(self) -> str:
        return "hello"


_gates: dict[str, asyncio.Event] = {}


def gate(name: str) -> asyncio.Event:
    """What ``Desk.wait`` waits for."""
    return _gates.setdefault(name, asyncio.Event())


OPTIONS = GatewayOptions(long_poll_timeout=0.3, max_body=2**20, max_chunk=2**16)


@pytest.fixture
async def silo() -> AsyncIterator[Silo]:
    _gates.clear()
    async with Silo([Desk, Closed], store="memory:", http="127.0.0.1:0", gateway=OPTIONS) as silo:
        yield silo


@pytest.fixture
def gateway(silo: Silo) -> Gateway:
    assert silo.http is not None
    return Gateway(silo.http)


@pytest.fixture
async def house(etcd_server: EtcdServer, tmp_path: Path) -> AsyncIterator[House]:
    _gates.clear()
    async with House(etcd_server, tmp_path, lease_ttl=2) as house:
        yield house
