"""How much each client may ask for, by its token or by its address."""

import asyncio
import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final

from starlette.types import Scope

from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem

_MOST_CLIENTS: Final = 10_000


@dataclass(slots=True)
class _Client:
    """A token bucket, and how many requests are open. As a context manager it is one of those, which ends."""

    left: float
    at: float
    open: int = 0

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open -= 1


class Clients:
    """Counts the requests of each client. Who was not heard of for longest is forgotten when there are too many."""

    def __init__(self, options: GatewayOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def count(self, name: str) -> None:
        """A request came. Raises ``Problem`` 429 if it came too soon."""
        self._counted(name)

    async def pace(self, name: str) -> None:
        """A message came on an open socket. Returns when it may count: nothing more is read until then."""
        client = self._refilled(name)
        client.left -= 1
        if client.left < 0:
            await asyncio.sleep(-client.left / self._options.client_rate)

    def admitted(self, name: str) -> AbstractContextManager[None]:
        """A request that is open from now on until the end of the context, as long as a stream or socket lasts.

        Raises ``Problem`` 429 if it is too many.
        """
        client = self._counted(name)
        most = self._options.client_concurrency
        if client.open >= most:
            raise _too_many(f"{most} requests and streams are open for this client; close some", 1.0)
        client.open += 1
        return client

    def _counted(self, name: str) -> _Client:
        client, rate = self._refilled(name), self._options.client_rate
        if client.left < 1:
            raise _too_many(f"this client may send {rate:g} requests a second", (1 - client.left) / rate)
        client.left -= 1
        return client

    def _refilled(self, name: str) -> _Client:
        now, rate, burst = self._clock(), self._options.client_rate, self._options.client_burst
        client = self._clients.get(name)
        if client is None:
            self._make_room()
            client = self._clients[name] = _Client(burst, now)
        self._clients.move_to_end(name)
        client.left = min(burst, client.left + (now - client.at) * rate)
        client.at = now
        return client

    def _make_room(self) -> None:
        """Forget the one that was quiet for longest. Those with open requests are as few as connections may be."""
        if len(self._clients) >= _MOST_CLIENTS:
            idle = next((name for name, client in self._clients.items() if not client.open), None)
            if idle is not None:
                del self._clients[idle]


def _too_many(detail: str, seconds: float) -> Problem:
    return Problem(429, "TooManyRequests", detail, headers={"Retry-After": str(math.ceil(seconds))})


def name_of_token(token: str) -> str:
    """What stands for a token: kept, but of no use to anybody."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def name_of_address(scope: Scope) -> str:
    """What stands for where a request came from; of IPv6 the network, which is what one client has. "" for here."""
    return _name_of_host(scope["client"][0] if scope.get("client") else "")


@lru_cache(maxsize=1024)
def _name_of_host(host: str) -> str:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return "" if ip.is_loopback else str(ipaddress.ip_network((ip, 64), strict=False))
        ip = ip.ipv4_mapped
    return "" if ip.is_loopback else str(ip)
