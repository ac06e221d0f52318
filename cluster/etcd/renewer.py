"""Renewing leases from a thread that may wait: blocking calls over a connection of their own."""

import random
import threading
import time
from collections.abc import Sequence

import grpc

from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.endpoint import Endpoint
from cluster.etcd.errors import EtcdClosed, EtcdUnavailable
from cluster.etcd.method import AUTHENTICATE, LEASE_KEEP_ALIVE, Method, RequestT, ResponseT
from cluster.etcd.verdict import HAS_LEADER, RENEWALS, Verdict, describe, judge, refusal

_PAUSE_FIRST = 0.05
_PAUSE_MAX = 0.5


class Renewer:
    """Asks one member of etcd at a time to renew a lease, and the next one after a failure.

    This is gRPC's blocking side, which needs no event loop and shares nothing with those that run. A renewal is the
    only message of its stream, which is on the wire what a plain call is: an answer that comes belongs to the request,
    and nothing is left behind. For one thread; ``close`` may be called from any.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, user: str | None, password: str) -> None:
        self._endpoints = list(endpoints)
        self._user = user
        self._password = password
        self._token: str | None = None
        self._channel: grpc.Channel | None = None
        self._failures = 0
        self._changing = threading.Lock()
        self._closed = False

    @property
    def pause(self) -> float:
        """Seconds to wait after a failure: none until every member had its turn, then ever more."""
        round_, rest = divmod(self._failures, len(self._endpoints))
        if rest or not round_:
            return 0.0
        return min(_PAUSE_MAX, _PAUSE_FIRST * 2.0 ** min(round_ - 1, 10)) * random.uniform(0.5, 1.0)

    def renew(self, lease_id: int, *, within: float) -> int:
        """The TTL that etcd grants from now on, 0 if it has no such lease.

        Raises ``EtcdUnavailable`` if the member did not answer ``within`` seconds or could not, ``EtcdAuthFailed`` and
        ``EtcdRejected`` where asking another one does not help, ``EtcdClosed`` after ``close``.
        """
        end = time.monotonic() + within
        request = pb.LeaseKeepAliveRequest(ID=lease_id)
        for renewals in range(RENEWALS + 1):
            try:
                answer = self._call(LEASE_KEEP_ALIVE, request, end=end, token=self._authenticate(end))
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
                if self._closed:
                    break
                verdict = judge(code, details)
                if verdict is Verdict.REAUTHENTICATE and self._user is not None and renewals < RENEWALS:
                    self._token = None
                    continue
                endpoint = self._endpoints[0]
                if verdict in (Verdict.REAUTHENTICATE, Verdict.DENIED, Verdict.REJECTED):
                    raise refusal(code, details, endpoint=endpoint.url, user=self._user) from None
                self._leave()
                raise EtcdUnavailable(f"etcd at {endpoint.url}: {describe(code, details)}") from None
            else:
                self._failures = 0
                return answer.TTL
        raise EtcdClosed("the etcd client was closed")

    def close(self) -> None:
        """End what is under way, with ``EtcdClosed``. Does not wait."""
        with self._changing:
            self._closed = True
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _leave(self) -> None:
        """Ask the next member from now on, and this one over a new connection: the old one may be dead."""
        self._failures += 1
        self._endpoints.append(self._endpoints.pop(0))
        with self._changing:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _authenticate(self, end: float) -> str | None:
        if self._user is None or self._token is not None:
            return self._token
        request = pb.AuthenticateRequest(name=self._user, password=self._password)
        try:
            self._token = self._call(AUTHENTICATE, request, end=end, token=None).token
        except grpc.RpcError as error:
            # An etcd without authentication accepts every user; it will say so if that changes.
            if "authentication is not enabled" not in (error.details() or ""):
                raise
        return self._token

    def _call(
        self, method: Method[RequestT, ResponseT], request: RequestT, *, end: float, token: str | None
    ) -> ResponseT:
        metadata = (HAS_LEADER,) if token is None else (HAS_LEADER, ("token", token))
        call = self._open().unary_unary(method.path, method.encode, method.decode)
        try:
            answer: ResponseT = call(request, timeout=max(0.0, end - time.monotonic()), metadata=metadata)
        except ValueError:  # what gRPC says of a channel that was closed before the call
            if not self._closed:
                raise
            raise EtcdClosed("the etcd client was closed") from None
        return answer

    def _open(self) -> grpc.Channel:
        with self._changing:
            if self._closed:
                raise EtcdClosed("the etcd client was closed")
            if self._channel is None:
                self._channel = self._endpoints[0].blocking_channel()
            return self._channel
