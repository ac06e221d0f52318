"""What a long-lived stream does between two connections: renew the token, change the member, wait a little."""

import asyncio
import logging

from cluster.etcd.connection import Connection
from cluster.etcd.method import Method, RequestT, ResponseT
from cluster.etcd.stream import Stream, StreamBroken
from cluster.etcd.verdict import RENEWALS, Verdict, refusal

_log = logging.getLogger(__name__)

# A stream that lived this long (seconds) was a success; the next failure is a new one.
_LIVED = 1.0


class Recovery:
    """Opens the streams of one watch, and counts what went wrong in a row."""

    def __init__(self, connection: Connection, *, purpose: str) -> None:
        self._connection = connection
        self._purpose = purpose
        self._failures = 0
        self._renewals = 0
        self._opened = 0.0

    async def open(self, method: Method[RequestT, ResponseT], *, within: float) -> Stream[RequestT, ResponseT]:
        """Open a stream to the current member. Raises ``StreamBroken``, to be handed to ``after``."""
        self._opened = asyncio.get_running_loop().time()
        stream = await self._connection.open(method, within=within)
        self._opened = asyncio.get_running_loop().time()
        return stream

    async def after(self, broken: StreamBroken) -> None:
        """Prepare for the next ``open``. Raises ``EtcdAuthFailed`` or ``EtcdRejected`` where that cannot help."""
        if asyncio.get_running_loop().time() - self._opened > _LIVED:
            self._failures = self._renewals = 0
        user = self._connection.user
        match broken.verdict:
            case Verdict.REAUTHENTICATE if user is not None and self._renewals < RENEWALS:
                self._renewals += 1
                self._connection.forget(broken.token)
                return
            case Verdict.REAUTHENTICATE | Verdict.DENIED | Verdict.REJECTED:
                raise refusal(broken.code, broken.cause, endpoint=broken.endpoint.url, user=user)
        self._failures += 1
        if self._failures == 1:
            _log.warning("%s: %s. Trying again", self._purpose, broken)
        self._connection.leave(broken.endpoint)
        await self._connection.pause(self._failures)
