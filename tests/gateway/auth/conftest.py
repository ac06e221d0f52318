"""Silos whose gateway asks for tokens."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from actors import Actor, handler
from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.gateway.auth.signing import SECRET
from tests.gateway.conftest import Open, Shut
from tests.gateway.http_client import Gateway


class Spoken(Actor):
    """An actor that can be called from outside."""

    @handler(public=True)
    async def say(self, word: str) -> str:
        return word


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start silos of their own, with these settings of the gateway."""
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Gateway:
            silo = Silo([Open, Shut, Spoken], http="127.0.0.1:0", gateway=GatewayOptions(**options))
            await stack.enter_async_context(silo)
            assert silo.http is not None
            return Gateway(silo.http)

        yield begin


@pytest.fixture
async def guarded(start: Start) -> Gateway:
    """A gateway that takes tokens with the tests' secret."""
    return await start(auth_secret=SECRET, long_poll_timeout=5, event_stream_lifetime=30)
