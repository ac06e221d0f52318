"""Silos with a gateway: in this process, or as processes of a cluster."""

from collections.abc import AsyncIterator

import pytest

from actors import Actor, handler
from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.cluster.conftest import etcd_server, processes  # noqa: F401  # fixtures
from tests.gateway.http_client import Gateway


class Open(Actor, public=True):
    """An actor whose channels can be written from outside."""

    @handler
    async def say(self, word: str) -> None:
        await self.publish(word)


class Shut(Actor):
    """An actor whose channels can only be read."""

    @handler
    async def say(self, word: str) -> None:
        await self.publish(word)


class Short(Shut, channel_retention={"items": 3}):
    """An actor whose channels keep little."""


OPTIONS = GatewayOptions(long_poll_timeout=0.3, max_body=2**20, max_chunk=2**16)


@pytest.fixture
async def silo() -> AsyncIterator[Silo]:
    async with Silo([Open, Shut, Short], store="memory:", http="127.0.0.1:0", gateway=OPTIONS) as silo:
        yield silo


@pytest.fixture
def gateway(silo: Silo) -> Gateway:
    assert silo.http is not None
    return Gateway(silo.http)
