"""What the keep-alive of a lease owes to its thread: it goes on while the event loop is blocked, up to a limit."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager

import grpc
import pytest

from cluster.etcd import EtcdAuthFailed, EtcdClient, EtcdClosed, EtcdServer, EtcdUnavailable, KeepAlive, Lease
from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.connection import Connection
from cluster.etcd.endpoint import Endpoint
from cluster.etcd.method import AUTHENTICATE, LEASE_KEEP_ALIVE
from cluster.etcd.renewer import Renewer
from tests.cluster.etcd.waiting import MonotonicClock, eventually

CLOCK = MonotonicClock()


def _block_until(what: str, condition: Callable[[], bool]) -> None:
    """Hold up the event loop until the condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"not within 30 s: {what}"
        time.sleep(0.01)


@pytest.fixture
async def kept(client: EtcdClient) -> AsyncIterator[KeepAlive]:
    """The keep-alive of a lease of 2 seconds that has been confirmed."""
    keep_alive = client.keep_alive(await client.grant(2), clock=CLOCK)
    await keep_alive.wait_confirmed()
    yield keep_alive
    await keep_alive.stop()


async def test_it_goes_on_while_the_loop_is_blocked_and_who_blocks_it_can_read_that(kept: KeepAlive) -> None:
    begun = CLOCK.now()
    _block_until("the lease is renewed", lambda: kept.deadline >= begun + 1.2 * kept.lease.ttl)
    assert kept.deadline <= CLOCK.now() + kept.lease.ttl
    await eventually("it goes on", lambda: kept.deadline > begun + 3 * kept.lease.ttl)
    assert not kept.lost.is_set()


async def test_a_loop_that_stands_still_holds_a_lease_for_two_ttls_at_most(kept: KeepAlive) -> None:
    begun = CLOCK.now()
    _block_until("the deadline passes", lambda: CLOCK.now() > kept.deadline)
    assert kept.deadline <= begun + 2 * kept.lease.ttl
    await eventually("etcd has decided", lambda: kept.lost.is_set() or kept.deadline > CLOCK.now())


async def test_a_loop_that_runs_again_before_the_deadline_keeps_its_lease(kept: KeepAlive) -> None:
    with _logged("is not renewed while") as held_back:
        _block_until("it is held back", held_back.is_set)
    assert CLOCK.now() < kept.deadline
    last = kept.deadline
    await eventually("it goes on", lambda: kept.deadline > last)
    assert not kept.lost.is_set()


@contextmanager
def _logged(words: str) -> Iterator[threading.Event]:
    """Set when a log message has the words."""
    heard = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                heard.set()

    handler = Handler()
    logger = logging.getLogger("cluster.etcd.lease")
    logger.addHandler(handler)
    yield heard
    logger.removeHandler(handler)


async def test_stopping_waits_for_no_answer(server: EtcdServer, stack: AsyncExitStack) -> None:
    client = await stack.enter_async_context(EtcdClient([server.endpoint]))
    lease = await client.grant(60)
    server.pause()
    stack.callback(server.resume)
    keep_alive = client.keep_alive(lease, clock=CLOCK)
    await eventually("it asks", lambda: keep_alive._renewer._channel is not None)
    async with asyncio.timeout(10):
        await keep_alive.stop()
    assert keep_alive.stopped
    keep_alive._thread.join(timeout=10)
    assert not keep_alive._thread.is_alive()


def test_it_ends_with_a_loop_that_was_closed_without_a_word(shared_server: EtcdServer) -> None:
    async def forget() -> KeepAlive:
        async with EtcdClient([shared_server.endpoint]) as client:
            lease = await client.grant(2)
        connection = Connection([Endpoint(shared_server.endpoint)], user=None, password=None, timeout=1)
        keep_alive = KeepAlive(connection.renewer(), lease, clock=CLOCK)
        await keep_alive.wait_confirmed()
        return keep_alive

    keep_alive = asyncio.run(forget())
    keep_alive._thread.join(timeout=10)
    assert not keep_alive._thread.is_alive()


# -- what one attempt makes of the answers of a member -----------------------------------------------------------------


class Member:
    """A member of etcd that renews leases for those who have its token."""

    def __init__(self) -> None:
        self.token = "first"
        self.password = "right"
        self.forgetful = False
        self.authenticated = 0
        self.renewed = 0

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Its two services, for a gRPC server."""
        authenticate = grpc.unary_unary_rpc_method_handler(
            self._authenticate, pb.AuthenticateRequest.FromString, pb.AuthenticateResponse.SerializeToString
        )
        renew = grpc.stream_stream_rpc_method_handler(
            self._renew, pb.LeaseKeepAliveRequest.FromString, pb.LeaseKeepAliveResponse.SerializeToString
        )
        return [
            grpc.method_handlers_generic_handler(service, {name: handler})
            for method, handler in ((AUTHENTICATE, authenticate), (LEASE_KEEP_ALIVE, renew))
            for service, name in [method.path.strip("/").split("/")]
        ]

    def _authenticate(self, request: pb.AuthenticateRequest, context: grpc.ServicerContext) -> pb.AuthenticateResponse:
        self.authenticated += 1
        if request.password != self.password:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"
            )
        return pb.AuthenticateResponse(token="none" if self.forgetful else self.token)

    def _renew(
        self, requests: Iterator[pb.LeaseKeepAliveRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.LeaseKeepAliveResponse]:
        for request in requests:
            if ("token", self.token) not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
            self.renewed += 1
            yield pb.LeaseKeepAliveResponse(ID=request.ID, TTL=7)


@pytest.fixture
def member() -> Iterator[tuple[Member, Endpoint]]:
    member = Member()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(member.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield member, Endpoint(f"127.0.0.1:{port}")
    server.stop(None).wait()


@contextmanager
def _renewer(*endpoints: Endpoint, password: str = "right") -> Iterator[Renewer]:
    renewer = Renewer(endpoints, user="app", password=password)
    yield renewer
    renewer.close()


def test_a_token_is_fetched_once_and_anew_when_the_member_has_forgotten_it(member: tuple[Member, Endpoint]) -> None:
    etcd, endpoint = member
    with _renewer(endpoint) as renewer:
        assert [renewer.renew(1, within=10) for _ in range(3)] == [7, 7, 7]
        assert etcd.authenticated == 1
        etcd.token = "second"
        assert renewer.renew(1, within=10) == 7
        assert etcd.authenticated == 2
    assert etcd.renewed == 4


def test_credentials_that_do_not_help_are_said_to_be_wrong(member: tuple[Member, Endpoint]) -> None:
    etcd, endpoint = member
    with (
        _renewer(endpoint, password="wrong") as renewer,
        pytest.raises(EtcdAuthFailed, match="Check the password of user 'app'"),
    ):
        renewer.renew(1, within=10)
    etcd.forgetful = True
    with _renewer(endpoint) as renewer, pytest.raises(EtcdAuthFailed, match="invalid auth token"):
        renewer.renew(1, within=10)
    assert etcd.renewed == 0


def test_after_a_failure_the_next_member_is_asked(member: tuple[Member, Endpoint]) -> None:
    _, endpoint = member
    nobody = Endpoint("127.0.0.1:1")
    with _renewer(nobody, endpoint) as renewer:
        with pytest.raises(EtcdUnavailable, match="127.0.0.1:1: .*refused"):
            renewer.renew(1, within=10)
        assert renewer.pause == 0
        assert renewer.renew(1, within=10) == 7
        assert renewer.renew(1, within=10) == 7
    with _renewer(nobody) as renewer:
        for _ in range(3):
            with pytest.raises(EtcdUnavailable):
                renewer.renew(1, within=10)
        assert 0 < renewer.pause <= 0.5


def test_after_its_end_nothing_is_sent(member: tuple[Member, Endpoint]) -> None:
    etcd, endpoint = member
    with _renewer(endpoint) as renewer:
        renewer.close()
        with pytest.raises(EtcdClosed):
            renewer.renew(1, within=10)
    assert etcd.authenticated == etcd.renewed == 0


async def test_a_keep_alive_of_a_closed_client_is_refused(shared_server: EtcdServer) -> None:
    async with EtcdClient([shared_server.endpoint]) as client:
        pass
    with pytest.raises(EtcdClosed, match="create a new one"):
        client.keep_alive(Lease(1, 2), clock=CLOCK)
