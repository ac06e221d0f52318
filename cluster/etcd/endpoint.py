"""One member of the etcd cluster: its address, its gRPC channel, and whether that is connected."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
import msgspec

from cluster.etcd import etcd_pb2 as pb
from cluster.etcd.method import STATUS, Method, RequestT, ResponseT
from cluster.etcd.verdict import describe

_ENDPOINT = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})/?"
)

_OPTIONS: list[tuple[str, int]] = [
    # A silent server is found out after 6 + 3 s. etcd drops clients that ping more often than every 5 s, or without a
    # call under way; the second between keeps a jittery clock from ever breaking that rule.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Where a ping for flow control is already under way no other is sent, and this (a minute by default) counts.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted member is noticed within a second. The minimum is what gRPC grants one attempt to connect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A write may be repeated only by code that knows what it repeats.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # Limiting an answer would turn a write whose answer is large into one of unknown outcome. Reads are paged.
    ("grpc.max_receive_message_length", -1),
    # Each client has its own connections: one client's back-off must not delay another.
    ("grpc.use_local_subchannel_pool", 1),
    # etcd is never behind the proxy for the web that the environment may name.
    ("grpc.enable_http_proxy", 0),
]

_PROBE_TIMEOUT = 0.5
# How long (seconds) a known cause stands for a failed connection before it is asked for again.
_CAUSE_AGE = 2.0


class Tls(msgspec.Struct, frozen=True):
    """Files for TLS, all PEM.

    ``ca`` signs the server's certificate (None: the roots that come with gRPC). ``cert`` and ``key`` identify the
    client where etcd asks for it (mutual TLS); both or neither.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises ``ValueError`` naming the file that cannot be read."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("Tls: cert and key belong together, only one of them was given")
        return grpc.ssl_channel_credentials(_read(self.ca, "ca"), _read(self.key, "key"), _read(self.cert, "cert"))


def _read(path: str | Path | None, role: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"Tls: cannot read the {role} file {path}: {error.strerror}") from error


class EndpointDown(Exception):
    """There is no connection to the member, so nothing was sent. ``cause`` says why in one line."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Endpoint:
    """A channel to one member. The channel opens inside the running loop, at the first use.

    Raises ``ValueError`` for an address that cannot be one.
    """

    def __init__(self, address: str, *, tls: Tls | None = None) -> None:
        match = _ENDPOINT.fullmatch(address.strip())
        if match is None or not 0 < int(match["port"]) < 65_536:
            raise ValueError(
                f"etcd endpoint {address!r} is not of the form http://host:port, https://host:port or host:port"
            )
        scheme = match["scheme"] or ("https" if tls else "http")
        if scheme == "http" and tls is not None:
            raise ValueError(f"etcd endpoint {address!r} is plain http, but TLS files were given: use https://")
        self._target = f"dns:///{match['host']}:{match['port']}"
        self._credentials = (tls or Tls()).credentials() if scheme == "https" else None
        self._channel: grpc.aio.Channel | None = None
        self._state_change: asyncio.Task[None] | None = None
        self._closed = False
        self._cause = "no connection"
        self._cause_until = 0.0
        self.url = f"{scheme}://{match['host']}:{match['port']}"

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise EndpointDown("the client was closed")
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=_OPTIONS)
        return self._channel

    def blocking_channel(self) -> grpc.Channel:
        """A new channel to the member, for a thread without an event loop. Its maker closes it."""
        if self._credentials is None:
            return grpc.insecure_channel(self._target, options=_OPTIONS)
        return grpc.secure_channel(self._target, self._credentials, options=_OPTIONS)

    async def ready(self, within: float) -> None:
        """Return when the connection stands; raise ``EndpointDown`` if it fails or ``within`` seconds pass.

        A request that is only sent after this, and not sent when this raises, is known not to have left.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while (state := self._open().get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                if loop.time() >= min(self._cause_until, end):
                    await self._probe(max(0.0, end - loop.time()))
                    continue
                raise EndpointDown(self._cause)
            if (remaining := end - loop.time()) <= 0:
                raise EndpointDown(f"no connection within {within:.3g} s")
            if self._state_change is None or self._state_change.done():
                # Shared and never cancelled: gRPC cannot take back a registered interest in the next state.
                self._state_change = loop.create_task(self._open().wait_for_state_change(state))
                self._state_change.add_done_callback(_forget_outcome)
            await asyncio.wait({self._state_change}, timeout=remaining)

    async def _probe(self, remaining: float) -> None:
        """Raise ``EndpointDown`` with the reason of a failed channel, which only a failing call can tell."""
        try:
            await self.call(STATUS, pb.StatusRequest(), within=min(_PROBE_TIMEOUT, remaining), metadata=())
        except grpc.aio.AioRpcError as error:
            if self._open().get_state() is grpc.ChannelConnectivity.READY:
                return
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                self._cause = _short(describe(error.code(), error.details() or ""))
                self._cause_until = asyncio.get_running_loop().time() + _CAUSE_AGE
            raise EndpointDown(self._cause) from None

    async def call(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        *,
        within: float,
        metadata: Sequence[tuple[str, str]],
    ) -> ResponseT:
        """One unary RPC, sent at most once. Raises ``grpc.aio.AioRpcError``, ``EndpointDown`` once closed."""
        call = self._open().unary_unary(method.path, method.encode, method.decode)
        return await call(request, timeout=within, metadata=tuple(metadata))

    def stream(
        self, method: Method[RequestT, ResponseT], *, metadata: Sequence[tuple[str, str]]
    ) -> "grpc.aio.StreamStreamCall[RequestT, ResponseT]":
        """Begin a bidirectional RPC without a deadline."""
        call = self._open().stream_stream(method.path, method.encode, method.decode)
        return call(None, metadata=tuple(metadata))

    async def close(self) -> None:
        """Close the channel. RPCs that are still under way are cancelled."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close(None)
        if self._state_change is not None:
            await asyncio.wait({self._state_change}, timeout=1.0)


def _forget_outcome(task: asyncio.Task[None]) -> None:
    """A closed channel fails the wait for its next state, which then interests nobody."""
    if not task.cancelled():
        task.exception()


def _short(details: str) -> str:
    """The core of gRPC's text about a failed connection: what follows the address."""
    return re.sub(r"^failed to connect to all addresses; last error: (?:[A-Z]+: )?", "", details)
