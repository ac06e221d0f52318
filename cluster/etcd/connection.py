"""All members of one etcd cluster behind one face: fail-over, authentication, and what may be sent twice."""

import asyncio
import random
from collections.abc import Sequence

import grpc
import grpc.aio

from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.endpoint import Endpoint, EndpointDown
from cluster.etcd.errors import EtcdClosed, EtcdOutcomeUnknown, EtcdUnavailable
from cluster.etcd.method import AUTHENTICATE, Method, RequestT, ResponseT
from cluster.etcd.renewer import Renewer
from cluster.etcd.stream import Stream, StreamBroken
from cluster.etcd.verdict import HAS_LEADER, RENEWALS, Verdict, describe, judge, refusal

_PAUSE_FIRST = 0.05
_PAUSE_MAX = 0.5


class Connection:
    """Sends requests to one member at a time and moves on to the next when that one does not serve.

    ``timeout`` (seconds) bounds every unary request with all its attempts.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], *, user: str | None, password: str | None, timeout: float
    ) -> None:
        self._endpoints = list(endpoints)
        self._index = 0
        self.user = user
        self._password = password or ""
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self._closed = False
        self.timeout = timeout

    @property
    def current(self) -> Endpoint:
        """The member that the next request goes to."""
        return self._endpoints[self._index]

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def share(self) -> float:
        """How much of the timeout one member may use up before another is asked."""
        return self.timeout / min(len(self._endpoints), 3)

    def leave(self, endpoint: Endpoint) -> None:
        """Send no more to ``endpoint`` for now, unless somebody has moved on already."""
        if self.current is endpoint:
            self._index = (self._index + 1) % len(self._endpoints)

    async def read(self, method: Method[RequestT, ResponseT], request: RequestT, *, leader: bool = True) -> ResponseT:
        """Send a request that may run any number of times, to one member after another until one answers.

        ``leader`` False also accepts an answer from a member that is cut off from the others. Raises
        ``EtcdUnavailable`` when the timeout has passed, ``EtcdAuthFailed`` and ``EtcdRejected``.
        """
        return await self._request(method, request, repeatable=True, leader=leader)

    async def write(self, method: Method[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Send a request that must not run twice.

        It is sent to another member only while it certainly reached none: before a connection stood, or where the
        member refused before handling it. Raises ``EtcdOutcomeUnknown`` in every other case without an answer, and
        whatever ``read`` raises; after ``EtcdUnavailable`` the request has not run and will not.
        """
        return await self._request(method, request, repeatable=False, leader=True)

    async def _request(
        self, method: Method[RequestT, ResponseT], request: RequestT, *, repeatable: bool, leader: bool
    ) -> ResponseT:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.timeout
        causes: dict[str, str] = {}
        attempt = renewals = 0
        sent = False
        while (remaining := end - loop.time()) > 0:
            self._check_open()
            endpoint = self.current
            share = min(remaining, self.share)
            token: str | None = None
            sent = False
            try:
                await endpoint.ready(share)
                token = await self._authenticate(endpoint, share)
                remaining = end - loop.time()
                if remaining <= 0:
                    causes.setdefault(endpoint.url, "no time was left to ask it")
                    break
                sent = True
                return await endpoint.call(
                    method,
                    request,
                    within=min(share, remaining) if repeatable else remaining,
                    metadata=_metadata(token, leader=leader),
                )
            except EndpointDown as down:
                causes[endpoint.url] = down.cause
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
                verdict = judge(code, details)
                causes[endpoint.url] = describe(code, details)
                if verdict is Verdict.REAUTHENTICATE and self.user is not None and renewals < RENEWALS:
                    renewals += 1
                    self.forget(token)
                    continue
                if verdict in (Verdict.REAUTHENTICATE, Verdict.DENIED, Verdict.REJECTED):
                    raise refusal(code, details, endpoint=endpoint.url, user=self.user) from None
                if verdict is Verdict.UNKNOWN and sent and not repeatable:
                    self.leave(endpoint)
                    raise _unknown(endpoint, causes[endpoint.url]) from None
            except asyncio.CancelledError:
                if self._cancelled_by_closing() and sent and not repeatable:
                    raise _unknown(endpoint, "the client was closed meanwhile") from None
                if self._cancelled_by_closing():
                    self._check_open()
                raise
            self.leave(endpoint)
            attempt += 1
            await self.pause(attempt, end=end)
        raise EtcdUnavailable(
            f"etcd did not answer within {self.timeout:.3g} s: "
            + "; ".join(f"{url} ({cause})" for url, cause in causes.items())
            + ". Start etcd, or correct the endpoints"
        )

    async def pause(self, attempt: int, *, end: float | None = None) -> None:
        """Wait before attempt number ``attempt`` + 1: not at all until every member had its turn, then ever longer.

        ``end`` (on the loop's clock) cuts it short.
        """
        round_, rest = divmod(attempt, len(self._endpoints))
        if rest or not round_:
            return
        seconds = min(_PAUSE_MAX, _PAUSE_FIRST * 2 ** min(round_ - 1, 10)) * random.uniform(0.5, 1.0)
        if end is not None:
            seconds = min(seconds, max(0.0, end - asyncio.get_running_loop().time()))
        await asyncio.sleep(seconds)

    async def open(self, method: Method[RequestT, ResponseT], *, within: float) -> Stream[RequestT, ResponseT]:
        """Begin a stream to the current member, once. Its member must have a leader, now and while the stream lasts.

        Raises ``StreamBroken``, for ``Recovery.after``, also where there is no connection ``within`` seconds.
        """
        self._check_open()
        endpoint = self.current
        token = None
        try:
            await endpoint.ready(within)
            token = await self._authenticate(endpoint, within)
        except EndpointDown as down:
            raise StreamBroken(endpoint, cause=down.cause, verdict=Verdict.ELSEWHERE) from None
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            raise StreamBroken(
                endpoint, cause=describe(code, details), verdict=judge(code, details), code=code
            ) from None
        except asyncio.CancelledError:
            if self._cancelled_by_closing():
                self._check_open()
            raise
        self._check_open()
        return Stream(endpoint, method, token=token, metadata=_metadata(token, leader=True))

    def renewer(self) -> Renewer:
        """What renews leases from a thread of its own, beginning at the current member. Raises ``EtcdClosed``."""
        self._check_open()
        endpoints = [*self._endpoints[self._index :], *self._endpoints[: self._index]]
        return Renewer(endpoints, user=self.user, password=self._password)

    def forget(self, token: str | None) -> None:
        """Fetch a new token for the next request, unless that has happened since ``token`` was used."""
        if self._token == token:
            self._token = None

    async def _authenticate(self, endpoint: Endpoint, within: float) -> str | None:
        """The token for this user, fetched from ``endpoint`` if none is at hand. Raises ``grpc.aio.AioRpcError``."""
        if self.user is None or self._token is not None:
            return self._token
        try:
            async with asyncio.timeout(within):
                await self._authenticating.acquire()
        except TimeoutError:
            raise EndpointDown(f"no token for user {self.user!r} within {within:.3g} s") from None
        try:
            if self._token is None:
                try:
                    answer = await endpoint.call(
                        AUTHENTICATE,
                        pb.AuthenticateRequest(name=self.user, password=self._password),
                        within=within,
                        metadata=(HAS_LEADER,),
                    )
                except grpc.aio.AioRpcError as error:
                    # An etcd without authentication accepts every user; it will say so if that changes.
                    if "authentication is not enabled" in (error.details() or ""):
                        return None
                    raise
                self._token = answer.token
            return self._token
        finally:
            self._authenticating.release()

    def _cancelled_by_closing(self) -> bool:
        """Whether a ``CancelledError`` came from the closed channel under an RPC, and nobody has cancelled the task."""
        task = asyncio.current_task()
        return self._closed and (task is None or not task.cancelling())

    def _check_open(self) -> None:
        if self._closed:
            raise EtcdClosed(f"the etcd client for {self} is closed: create a new one")

    def __str__(self) -> str:
        return ", ".join(endpoint.url for endpoint in self._endpoints)

    async def close(self) -> None:
        """Close all channels. Requests under way end with ``EtcdClosed``, or ``EtcdOutcomeUnknown`` for sent writes."""
        self._closed = True
        for endpoint in self._endpoints:
            await endpoint.close()


def _metadata(token: str | None, *, leader: bool) -> tuple[tuple[str, str], ...]:
    metadata: tuple[tuple[str, str], ...] = (HAS_LEADER,) if leader else ()
    return metadata if token is None else (*metadata, ("token", token))


def _unknown(endpoint: Endpoint, cause: str) -> EtcdOutcomeUnknown:
    return EtcdOutcomeUnknown(
        f"a write was sent to etcd at {endpoint.url} but not answered ({cause}): it may or may not have taken effect. "
        "Read the keys before repeating it"
    )
